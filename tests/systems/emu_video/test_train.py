"""Training: what a step learns from, that only the added layers learn, and exact resume."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from diorama.diffusion.text_to_image import TextToImage
from diorama.errors import InputError
from diorama.systems.emu_video.config import DropConfig, EmuVideoConfig, ModeConfig, TemporalConfig
from diorama.systems.emu_video.data import Clips
from diorama.systems.emu_video.interpolation import keyframe_places
from diorama.systems.emu_video.modes import Mode
from diorama.systems.emu_video.pipeline import EmuVideo
from diorama.systems.emu_video.train import (
    EncodedClips,
    Lessons,
    VideoLoss,
    VideoRecipe,
    at_size,
    decode_frames,
    encode_clips,
    encode_frames,
    hidden,
    learn,
)
from diorama.training import RunConfig

CONFIG = EmuVideoConfig(temporal=TemporalConfig(frames=4, head_dim=16), pixels=16)
RUN = RunConfig(steps=4, learning_rate=1e-3, weight_decay=0.0, schedule="constant", warmup=0, save_every=2, log_every=1,
                ema=0.9, trainable_only=True)
RECIPE = VideoRecipe(run=RUN, batch=3)


def lessons(base: TextToImage, clips: Clips, **changes) -> Lessons:
    return replace(Lessons(base, encode_clips(base, clips), CONFIG, RECIPE, seed=1), **changes)


def test_frames_are_encoded_one_by_one_with_the_scale_of_the_base(base: TextToImage, clips: Clips) -> None:
    """Pitfall 9: the given image and the clip have the same latents where they are the same frame."""
    pixels = torch.from_numpy(clips.pixels)
    latents = encode_frames(base, pixels)
    assert latents.shape == (8, 4, 3, 16, 16)
    assert torch.equal(latents[:, 2], base.to_latents(pixels[:, 2]))
    assert torch.equal(decode_frames(base, latents), pixels)
    low = at_size(base, 8)
    assert encode_frames(low, pixels[..., ::2, ::2]).shape == (8, 4, 3, 8, 8) and base.image_size == 16


def test_a_lesson_is_the_same_whenever_it_is_asked_for(base: TextToImage, clips: Clips) -> None:
    first, again = lessons(base, clips)(5), lessons(base, clips)(5)
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = lessons(base, clips)(6)
    assert not torch.equal(first["eps"], other["eps"])


def test_the_first_frame_is_given_and_conditions_are_hidden_here_and_there(base: TextToImage, clips: Clips) -> None:
    bare = replace(RECIPE, drop=DropConfig(text=0, image=0, both=0))
    batch = lessons(base, clips, recipe=bare)(0)
    assert torch.equal(batch["given"][:, 0, 1:], batch["latents"][:, 0])
    assert (batch["given"][:, 0, 0] == 1).all() and (batch["given"][:, 1:] == 0).all()
    assert batch["mask"].sum(1).min() > 2
    blind = lessons(base, clips, recipe=replace(RECIPE, drop=DropConfig(text=0, image=0, both=1)))(0)
    assert (blind["given"] == 0).all(), "dropping the image drops mask and frames"
    assert (blind["mask"].sum(1) == 2).all(), "dropping the text leaves the empty caption, begin and end"
    torch.testing.assert_close(blind["tokens"][:, :2], base.encode_text([""] * 3).tokens)


def test_shares_of_hidden_conditions() -> None:
    text, image = hidden(20_000, DropConfig(), np.random.default_rng(0))
    assert text.mean() == pytest.approx(0.2, abs=0.01) and image.mean() == pytest.approx(0.2, abs=0.01)
    assert (text & image).mean() == pytest.approx(0.1, abs=0.01)


def test_the_interpolator_is_given_noisy_keyframes(base: TextToImage, clips: Clips) -> None:
    between = Clips(np.repeat(clips.pixels, 6, axis=1)[:, :21], clips.captions, 16.0)
    config = replace(CONFIG, role="interpolator")
    bare = replace(RECIPE, drop=DropConfig(text=0, image=0, both=0))
    batch = Lessons(base, encode_clips(base, between), config, bare)(0)
    places = keyframe_places(4)
    assert (batch["given"][:, places, 0] == 1).all()
    assert batch["given"][:, :, 0].flatten(2).amax(-1).sum(1).tolist() == [4] * 3
    off = (batch["given"][:, places, 1:] - batch["latents"][:, places]).abs().mean()
    assert 0 < off < 0.6, "noised, but to a quarter of the schedule at most"


@pytest.mark.parametrize("mode", [ModeConfig(), ModeConfig(target="eps", zero_snr=False), ModeConfig(target="x0"),
                                  ModeConfig(target="flow", schedule="flow", zero_snr=False)])
def test_the_loss_is_against_the_target_of_the_mode(base: TextToImage, clips: Clips, mode: ModeConfig) -> None:
    """A network that answers zero has the mean square of the target as its loss."""

    class Zero(torch.nn.Module):
        def forward(self, noisy, times, condition, given):
            return torch.zeros_like(noisy)

    made = lessons(base, clips, config=replace(CONFIG, mode=mode))
    batch = made(0)
    loss = VideoLoss(Zero(), made.mode)(**batch)
    wanted = Mode.of(mode).wanted(batch["latents"], batch["eps"], batch["index"])
    torch.testing.assert_close(loss, wanted.pow(2).flatten(1).mean(1))


def test_only_the_added_layers_learn_and_the_optimizer_holds_nothing_else(
        base: TextToImage, clips: Clips, tmp_path: Path) -> None:
    own = copy.deepcopy(base)
    emu = EmuVideo.new(own, CONFIG)
    before = {name: tensor.clone() for name, tensor in emu.video.state_dict().items()}
    run = learn(emu.video, lessons(base, clips), tmp_path, device="cpu", progress="silent")
    held = {id(p) for group in run._optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for _, p in emu.video.added()}
    after = emu.video.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in after if name.startswith("image."))
    assert any(not torch.equal(after[name], before[name]) for name in after if not name.startswith("image."))
    stored = {file.name for file in (tmp_path / "checkpoints").iterdir()}
    assert stored == {"step-00000002", "step-00000004"}


def test_the_ablation_trains_the_image_model_too(base: TextToImage, clips: Clips, tmp_path: Path) -> None:
    emu = EmuVideo.new(copy.deepcopy(base), CONFIG)
    before = emu.video.image.proj_out.weight.clone()
    made = lessons(base, clips, recipe=replace(RECIPE, frozen=False, run=replace(RUN, trainable_only=False, steps=2)))
    learn(emu.video, made, tmp_path, device="cpu", progress="silent")
    assert not torch.equal(emu.video.image.proj_out.weight, before)


def test_a_run_that_stopped_goes_on_exactly(base: TextToImage, clips: Clips, tmp_path: Path) -> None:
    def trained(out: Path, *steps: int) -> dict[str, torch.Tensor]:
        for count in steps:
            torch.manual_seed(0)
            emu = EmuVideo.new(copy.deepcopy(base), CONFIG)
            made = lessons(base, clips, recipe=replace(RECIPE, run=replace(RUN, steps=count)))
            learn(emu.video, made, out, device="cpu", progress="silent")
        return emu.video.state_dict()

    whole, parts = trained(tmp_path / "whole", 4), trained(tmp_path / "parts", 2, 4)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_an_empty_source_is_refused(base: TextToImage, tmp_path: Path) -> None:
    empty = EncodedClips(torch.zeros(0, 4, 3, 16, 16), [])
    with pytest.raises(InputError, match="no clips"):
        learn(EmuVideo.new(base, CONFIG).video, Lessons(base, empty, CONFIG, RECIPE), tmp_path, device="cpu")
