"""The claims: the judge is right on true clips, the quick mode holds, and the arms run from end to end."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diorama.cli import main
from diorama.diffusion.text_to_image import TextToImage
from diorama.systems.emu_video import arms as world
from diorama.systems.emu_video import reproduce as claims
from diorama.systems.emu_video import trials
from diorama.systems.emu_video.arms import Judge, Reading
from diorama.systems.emu_video.config import EmuVideoConfig, SamplingConfig, TemporalConfig
from diorama.systems.emu_video.pipeline import EmuVideo
from diorama.systems.emu_video.reproduce import reproduce
from diorama.systems.emu_video.trials import CLIP_LOOKS, UNSEEN_LOOKS, Sizes


def test_the_judge_reads_true_clips_rightly() -> None:
    """Over 99 % before it judges anything."""
    judge, some = Judge.calibrated(), world.subjects(200, 5)
    readings = [judge.read(clip) for clip in world.draw(some).pixels]
    assert np.mean([r.shows(subject) for r, subject in zip(readings, some, strict=True)]) > 0.99
    assert np.mean([r.motion == subject.motion for r, subject in zip(readings, some, strict=True)]) > 0.99
    assert np.mean([r.flips for r in readings]) < 0.01


def test_the_judge_sees_what_is_not_there() -> None:
    judge = Judge.calibrated()
    empty = judge.read(np.full((4, 3, 16, 16), 130, dtype=np.uint8))
    assert empty.colors == (None,) * 4 and empty.motion is None
    reading = Reading(("red", "blue", "blue", "red"), ("dark",) * 4, (1, 1, 1, 1), (9, 8, 3, 2), (0.1,) * 4)
    assert reading.flips == 2 and reading.motion == "up"


def test_clips_lack_the_looks_that_the_claim_is_about() -> None:
    assert len(CLIP_LOOKS) == 6 and len(UNSEEN_LOOKS) == 12 and not set(CLIP_LOOKS) & set(UNSEEN_LOOKS)
    assert {color for color, _ in CLIP_LOOKS} == set(world.COLORS), "every color moves, but not on every ground"
    assert {ground for _, ground in CLIP_LOOKS} == set(world.GROUNDS)
    clips = world.draw(world.subjects(30, 0, CLIP_LOOKS))
    words = set(clips.words())
    assert words <= set(world.WORDS)
    captions = [subject.caption(ground=False) for subject in world.subjects(30, 0)]
    assert not any("ground" in caption for caption in captions)


def test_quick_without_a_shipped_model_is_exact_and_says_what_it_lacks(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "miniature_names", lambda: [])
    said: list[str] = []
    claim = reproduce(quick=True, out=tmp_path, progress=said.append)
    assert claim.holds, [check.says for check in claim.checks if not check.holds]
    assert claim.seconds < 60 and claim.to_json()["mode"] == "quick"
    assert "not shipped yet" in said[0] and "diorama emu-video train --stage video" in said[0]
    assert "--weights" in said[0] and "leave --quick out" in said[1]
    assert not any("scale rises" in check.says for check in claim.checks)


def test_quick_with_a_model_s_folder_examines_its_guidance_scales(
        base: TextToImage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A network with random weights: whether its motion rises with a scale is measured, not known beforehand."""
    emu = EmuVideo.new(base, EmuVideoConfig(temporal=TemporalConfig(frames=4, head_dim=16), pixels=16,
                                            sampling=SamplingConfig(steps=2)))
    folder = emu.save_pretrained(tmp_path / "model", card="# tiny")
    code = main(["emu-video", "reproduce", "--quick", "--weights", str(folder), "--out", str(tmp_path), "--json"])
    found = json.loads(capsys.readouterr().out)
    scales = [check for check in found["checks"] if "scale rises" in check["says"]]
    assert len(scales) == 2 and all(str(folder) in check["says"] for check in scales)
    assert code == (0 if found["holds"] else 1)
    assert main(["emu-video", "reproduce", "--quick", "--weights", str(tmp_path / "gone"), "--out",
                 str(tmp_path)]) == 2
    assert "gone" in capsys.readouterr().err


def test_the_arms_run_from_end_to_end_and_go_on_where_they_stopped(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trials.config_of
    monkeypatch.setattr(trials, "config_of", lambda mode=None, frames=8: replace(
        whole(mode, frames), sampling=SamplingConfig(steps=2)))
    monkeypatch.setattr(trials, "BASE", replace(trials.BASE, width=32, layers=1))
    sizes = Sizes(pictures=8, clips=20, image_steps=2, video_steps=2, short_steps=2, between_steps=2, batch=2,
                  examined=4)
    said: list[str] = []
    arms, checks = trials.trained_arms(sizes, [0], tmp_path, said.append)
    names = {arm.name for arm in arms}
    assert {"factorised", "direct", "direct, stock schedule", "image base", "interpolator", "linear blend",
            "high quality", "w_i 3, w_p 8", "usual initialisation", "all layers trained"} <= names
    assert {check.says[0] for check in checks} == set("1245678")
    exact = next(check for check in checks if "no pixel" in check.says)
    assert exact.holds, "frozen layers change nothing, however little is trained"
    again = trials.trained_arms(sizes, [0], tmp_path, said.append)[0]
    assert [arm.to_json() for arm in again] == [arm.to_json() for arm in arms], "nothing is trained twice"
