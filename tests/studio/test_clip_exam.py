"""SelfEval over a video model's clips."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from diorama.cli import main
from diorama.diffusion.text_to_image import MiniatureConfig, build_miniature
from diorama.errors import InputError
from diorama.media.videos import write_video
from diorama.studio.clip_exam import ClipGenerator, score_clip
from diorama.systems.emu_video.config import EmuVideoConfig, TemporalConfig
from diorama.systems.emu_video.pipeline import EmuVideo
from diorama.systems.selfeval.config import Elimination, Estimator

CAPTIONS = ["a red cube slides left", "a red cube slides right"]


@pytest.fixture(scope="module")
def emu() -> EmuVideo:
    torch.manual_seed(0)
    base = build_miniature(MiniatureConfig(image_size=16, latent=False, width=32, layers=1, text_width=32,
                                           text_layers=1, words=16), device="cpu")
    return EmuVideo.new(base, EmuVideoConfig(temporal=TemporalConfig(frames=4, head_dim=32)))


def test_motion_words_are_chosen_with_the_first_frame_given(emu: EmuVideo) -> None:
    clip = torch.randint(0, 256, (4, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for how in (Elimination(least=2, most=3), Estimator(method="path", times=3)):
        verdict = score_clip(emu, clip, CAPTIONS, how)
        assert sum(verdict.probabilities) == pytest.approx(1.0) and len(verdict.best) == 1
    same = score_clip(emu, clip, [CAPTIONS[0], CAPTIONS[0]], how)
    assert same.best == (CAPTIONS[0], CAPTIONS[0]), "equal captions tie"


def test_the_given_frame_reaches_the_network(emu: EmuVideo) -> None:
    torch.nn.init.normal_(emu.video.given.weight)
    latents = torch.randn(1, 4, *emu.base.latent_shape)
    given = torch.zeros(1, 4, 4, 16, 16)
    given[:, 0] = 1
    told, index = emu.base.encode_text(CAPTIONS[:1]), torch.tensor([500])
    with_it = ClipGenerator(emu, given).denoiser(latents, index, told).eps
    assert not torch.allclose(with_it, ClipGenerator(emu).denoiser(latents, index, told).eps)


def test_a_clip_of_another_length_is_refused(emu: EmuVideo) -> None:
    with pytest.raises(InputError, match="trained on 4 frames"):
        score_clip(emu, torch.zeros(5, 3, 16, 16, dtype=torch.uint8), CAPTIONS)


def test_score_clip_reads_a_file_and_names_the_likeliest_caption(emu: EmuVideo, tmp_path: Path, capsys) -> None:
    torch.nn.init.zeros_(emu.video.given.weight)
    emu.save_pretrained(tmp_path / "weights", card="# tiny")
    clip = tmp_path / "clip.mp4"
    write_video(clip, np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8), 4.0)
    line = ["selfeval", "score-clip", str(clip), *CAPTIONS, "--weights", str(tmp_path / "weights"), "--most", "4"]
    assert main([*line, "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert found["captions"] == CAPTIONS and found["best"][0] in CAPTIONS
    assert sum(found["probabilities"]) == pytest.approx(1.0)
    assert "the first frame changes nothing" in said.err
    assert main(line[:4]) == 2 and "a choice needs two" in capsys.readouterr().err
    assert main([*line[:2], str(tmp_path / "none.mp4"), *line[3:]]) == 2
