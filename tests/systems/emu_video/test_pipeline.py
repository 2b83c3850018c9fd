"""Drawing: rows that depend on their own seed, the modes kept apart, windows, saving and what is refused."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from diorama.diffusion.text_to_image import TextToImage
from diorama.errors import CheckpointError, InputError
from diorama.systems.emu_video.config import EmuVideoConfig, SamplingConfig, TemporalConfig
from diorama.systems.emu_video.interpolation import interpolated_length
from diorama.systems.emu_video.pipeline import EmuVideo, Sampling

CONFIG = EmuVideoConfig(temporal=TemporalConfig(frames=4, head_dim=16), pixels=16, sampling=SamplingConfig(steps=3))
CAPTIONS = ["a red cube moves left", "a blue sphere stays still"]


def lively(base: TextToImage, config: EmuVideoConfig = CONFIG) -> EmuVideo:
    """A video model whose added layers matter."""
    emu = EmuVideo.new(base, config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for _, parameter in emu.video.added():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return emu


@pytest.fixture
def emu(base: TextToImage) -> EmuVideo:
    own = copy.deepcopy(base)
    return EmuVideo(own, lively(own).video, CONFIG, name="tiny",
                    interpolator=lively(own, replace(CONFIG, role="interpolator")))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16), dtype=np.uint8))


def test_a_clip_is_pixels_and_a_row_depends_on_its_own_seed(emu: EmuVideo, images: torch.Tensor) -> None:
    clips = emu.animate(images, CAPTIONS, Sampling(seed=5))
    assert clips.shape == (2, 4, 3, 16, 16) and clips.dtype == torch.uint8
    alone = emu.animate(images[1:], CAPTIONS[1:], Sampling(seed=6))
    assert (clips[1:].int() - alone.int()).abs().max() <= 1
    assert not torch.equal(clips, emu.animate(images, CAPTIONS, Sampling(seed=9)))
    assert torch.equal(clips, emu.animate(images, CAPTIONS, Sampling(seed=5)))


def test_sampling_starts_at_pure_noise(emu: EmuVideo, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pitfall 6: whatever the number of steps, the first one is at the last time, where the SNR is zero."""
    asked: list[int] = []
    forward = emu.video.forward

    def heard(sample, times, condition, given=None):
        asked.append(int(times[0]))
        return forward(sample, times, condition, given)

    monkeypatch.setattr(emu.video, "forward", heard)
    for steps in (2, 10):
        asked.clear()
        emu.animate(images, CAPTIONS, Sampling(steps=steps))
        assert asked[0] == 999 and asked == sorted(asked, reverse=True) and len(asked) == steps
    assert emu.mode.schedule.snr[-1] == 0


def test_image_text_and_scales_all_matter(emu: EmuVideo, images: torch.Tensor) -> None:
    clips = emu.animate(images, CAPTIONS)
    for other in (emu.animate(images.flip(0), CAPTIONS), emu.animate(images, CAPTIONS[::-1]),
                  emu.animate(None, CAPTIONS), emu.animate(images, CAPTIONS, Sampling(guidance_text=1.0)),
                  emu.animate(images, CAPTIONS, Sampling(guidance_image=1.0)),
                  emu.animate(images, CAPTIONS, Sampling(steps=2))):
        assert not torch.equal(clips, other)


def test_the_first_frame_is_drawn_by_the_image_base_alone(emu: EmuVideo, base: TextToImage) -> None:
    """To the bit, although the layers over time have been trained around the same network."""
    assert torch.equal(emu.draw(CAPTIONS, seed=3), base.generate(CAPTIONS, steps=3, guidance=7.5, seed=3))


def test_interpolation_of_one_window_and_of_several(emu: EmuVideo) -> None:
    clips = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 7, 3, 16, 16), dtype=np.uint8))
    assert emu.interpolate(clips[:, :4], CAPTIONS).shape == (2, interpolated_length(4), 3, 16, 16)
    made = emu.interpolate(clips, CAPTIONS)
    assert made.shape == (2, interpolated_length(7), 3, 16, 16)
    alone = emu.interpolate(clips[:1], CAPTIONS[:1])
    assert alone.shape == (1, interpolated_length(7), 3, 16, 16)
    with pytest.raises(InputError, match="at least 4"):
        emu.interpolate(clips[:, :3], CAPTIONS)
    emu.interpolator = None
    with pytest.raises(InputError, match="has no interpolator"):
        emu.interpolate(clips, CAPTIONS)


def test_saved_and_read_back_it_draws_the_same(emu: EmuVideo, images: torch.Tensor, tmp_path: Path) -> None:
    emu.save_pretrained(tmp_path / "video", card="# tiny")
    assert emu.interpolator is not None
    emu.interpolator.save_pretrained(tmp_path / "between", card="# tiny", with_image=False)
    loaded = EmuVideo.from_pretrained(tmp_path / "video", device="cpu", interpolator=tmp_path / "between")
    clips = emu.animate(images, CAPTIONS)
    assert torch.equal(loaded.animate(images, CAPTIONS), clips)
    assert torch.equal(loaded.interpolate(clips, CAPTIONS), emu.interpolate(clips, CAPTIONS))
    assert loaded.interpolator is not None and loaded.interpolator.video.image is loaded.video.image
    assert loaded.config == emu.config


def test_layers_that_read_the_caption_are_saved_with_the_others(base: TextToImage, images: torch.Tensor,
                                                                tmp_path: Path) -> None:
    reading = replace(CONFIG, temporal=replace(CONFIG.temporal, text_width=32))
    emu = lively(base, reading)
    emu.save_pretrained(tmp_path / "video", card="# tiny")
    loaded = EmuVideo.from_pretrained(tmp_path / "video", device="cpu")
    clips = emu.animate(images, CAPTIONS)
    assert torch.equal(loaded.animate(images, CAPTIONS), clips)
    assert not torch.equal(emu.animate(images, CAPTIONS[::-1]), clips)


def test_a_base_by_name_is_found_by_it(emu: EmuVideo, images: torch.Tensor, tmp_path: Path) -> None:
    emu.base.save_pretrained(tmp_path / "base", card="# base")
    emu.base.name = str(tmp_path / "base")
    emu.save_pretrained(tmp_path / "video", card="# tiny", with_image=False)
    assert not (tmp_path / "video" / "image").exists()
    loaded = EmuVideo.from_pretrained(tmp_path / "video", device="cpu")
    assert torch.equal(loaded.animate(images, CAPTIONS), emu.animate(images, CAPTIONS))


def test_checkpoints_that_cannot_be_used_are_named(emu: EmuVideo, tmp_path: Path) -> None:
    emu.base.save_pretrained(tmp_path / "base", card="# base")
    with pytest.raises(CheckpointError, match="not of Emu Video"):
        EmuVideo.from_pretrained(tmp_path / "base", device="cpu")
    emu.base.name = ""
    emu.save_pretrained(tmp_path / "video", card="# tiny")
    (tmp_path / "video" / "image").rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="names no image base"):
        EmuVideo.from_pretrained(tmp_path / "video", device="cpu")
    with pytest.raises(InputError, match="is a video model"):
        EmuVideo(emu.base, emu.video, CONFIG, interpolator=EmuVideo.new(emu.base, CONFIG))


def test_a_nan_stops_with_the_step_named(emu: EmuVideo, images: torch.Tensor) -> None:
    with torch.no_grad():
        next(p for name, p in emu.video.added() if name.endswith("narrow.bias")).fill_(float("nan"))
    with pytest.raises(InputError, match="Step 0 of the sampler"):
        emu.animate(images, CAPTIONS)


def test_images_and_captions_that_do_not_go_together_are_refused(emu: EmuVideo, images: torch.Tensor) -> None:
    with pytest.raises(InputError, match="one caption an image"):
        emu.animate(images, CAPTIONS[:1])
    with pytest.raises(InputError, match="Resize them first"):
        emu.animate(images[..., :8], CAPTIONS)


def test_text_gain_is_zero_where_text_says_nothing(emu: EmuVideo) -> None:
    clips = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 4, 3, 16, 16), dtype=np.uint8))
    gain = emu.text_gain(clips, ["", "a red cube"], times=2)
    assert gain[0].abs() < 1e-6 < gain[1].abs()
