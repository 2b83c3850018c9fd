"""What is shipped: the numbers on the card are those that were measured, and the base is not stored twice."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diorama.diffusion.text_to_image import TextToImage
from diorama.errors import CheckpointError
from diorama.metrics import Interval
from diorama.systems.emu_video import finish as finishing
from diorama.systems.emu_video.config import EmuVideoConfig, SamplingConfig, TemporalConfig
from diorama.systems.emu_video.evaluate import GOALS
from diorama.systems.emu_video.pipeline import EmuVideo

CONFIG = EmuVideoConfig(temporal=TemporalConfig(frames=4, head_dim=16), pixels=16, sampling=SamplingConfig(steps=2))


@pytest.fixture
def video(base: TextToImage, tmp_path: Path) -> Path:
    return EmuVideo.new(base, CONFIG).save_pretrained(tmp_path / "video", card="# tiny\n\nTrained for 0 steps.")


def test_a_video_model_gets_a_card_with_what_was_measured(video: Path, tmp_path: Path, monkeypatch) -> None:
    verdicts = {name: Interval(0.5, 0.25, 0.75, 2) for name in GOALS}
    monkeypatch.setattr(finishing, "judged", lambda made, fps: verdicts)
    found = finishing.finish(video, tmp_path / "out", prompts=2, device="cpu")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Trained for 0 steps." in card and "clip: motion word" in card and "goal 75%, not reached" in card
    kept = json.loads((tmp_path / "out" / "measured.json").read_text())
    assert kept == json.loads(json.dumps(found)) and kept["measured"]["clip: motion word"]["mean"] == 0.5
    assert {"motion score", "frame consistency"} <= set(kept["measured"])
    shipped = EmuVideo.from_pretrained(tmp_path / "out", device="cpu")
    assert all(torch.equal(tensor.half().float(), shipped.video.state_dict()[name])
               for name, tensor in EmuVideo.from_pretrained(video, device="cpu").video.state_dict().items())


def test_an_interpolator_is_measured_against_a_linear_blend(base: TextToImage, tmp_path: Path) -> None:
    between = EmuVideo.new(base, replace(CONFIG, role="interpolator"))
    folder = between.save_pretrained(tmp_path / "between", card="# tiny")
    measured = finishing.finish(folder, tmp_path / "out", prompts=3, device="cpu")["measured"]
    gain = measured["between: PSNR"]["mean"] - measured["between: PSNR of a linear blend"]["mean"]
    assert measured["between: gain over it"]["mean"] == pytest.approx(gain) and gain < 0, "an untrained one loses"


def test_a_base_shipped_on_its_own_is_left_out_and_must_be_the_same(base: TextToImage, video: Path, tmp_path: Path,
                                                                     monkeypatch) -> None:
    monkeypatch.setattr(finishing, "judged", lambda made, fps: {})
    alone = str(base.save_pretrained(tmp_path / "base", card="# tiny"))
    finishing.finish(video, tmp_path / "out", prompts=1, image_base=alone, device="cpu")
    assert not (tmp_path / "out" / "image").exists()
    assert EmuVideo.from_pretrained(tmp_path / "out", device="cpu").base.name == alone
    other = TextToImage.from_pretrained(alone, device="cpu")
    with torch.no_grad():
        next(other.network.parameters()).add_(1.0)
    different = str(other.save_pretrained(tmp_path / "other", card="# tiny"))
    with pytest.raises(CheckpointError, match="is not the image model"):
        finishing.finish(video, tmp_path / "out2", prompts=1, image_base=different, device="cpu")
    assert not (tmp_path / "out2").exists()


def test_a_folder_that_training_did_not_leave_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no README\.md"):
        finishing.finish(tmp_path, tmp_path / "out")
