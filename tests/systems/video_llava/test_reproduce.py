import json
from dataclasses import replace

import numpy as np
import pytest

from diorama.errors import CheckpointError
from diorama.systems.video_llava import reproduce as module
from diorama.systems.video_llava.evaluate import Reply
from diorama.systems.video_llava.reproduce import (
    ARMS,
    Sizes,
    accuracy,
    difference,
    reproduce,
    shown_without_training,
    shuffled,
    trained_arms,
)
from diorama.world.questions import Question

TINY = Sizes(image_families=2, clip_families=2, members=1, read_steps=1, steps=1, images=1, clips=1, examined=3)


def reply(row: int, kind: str, is_right: bool) -> Reply:
    return Reply(row, Question(kind, f"{kind} {row}", "red", ("red", "blue")), "red" if is_right else "blue", True)


def test_shuffling_keeps_every_frame_of_a_clip_and_moves_some(clips):
    mixed = shuffled(clips)
    for before, after in zip(clips.small, mixed.small, strict=True):
        assert sorted(frame.tobytes() for frame in before) == sorted(frame.tobytes() for frame in after)
    assert not np.array_equal(clips.small, mixed.small)
    assert mixed.facts is clips.facts and np.array_equal(shuffled(clips).small, mixed.small)


def test_accuracy_and_difference_are_over_the_same_questions():
    first = [reply(row, kind, True) for row in range(6) for kind in ("color", "order")]
    second = [reply(row, kind, kind == "color") for row in range(6) for kind in ("color", "order")]
    assert accuracy(first, None).mean == 1 and accuracy(second, {"order"}).mean == 0
    assert accuracy(second, None).n == 6                        # scenes, not questions
    assert difference(first, second, {"order"}).low == 1
    assert difference(first, second, {"color"}).mean == 0
    with pytest.raises(AssertionError):
        difference(first, second[1:], None)


def test_quick_needs_no_training_and_prints_the_object(llava, tmp_path, monkeypatch):
    small = lambda model, examined: shown_without_training(model, 4)  # noqa: E731
    monkeypatch.setattr(module, "shown_without_training", small)
    monkeypatch.setattr(module, "trained_arms", None)
    weights = llava.save_pretrained(tmp_path / "model", card="# random")
    claim = reproduce(quick=True, weights=weights, out=tmp_path / "out")
    found = json.loads(json.dumps(claim.to_json()))
    assert set(found) == {"system", "claim", "published", "arms", "checks", "holds", "mode", "seconds", "device",
                          "versions"}
    assert (found["system"], found["mode"]) == ("video_llava", "quick")
    names = [arm["name"] for arm in found["arms"]]
    assert names[:3] == ["miniature", "frames shuffled", "temporal attention silenced"] and len(names) == 5
    for arm in found["arms"]:
        for metric in arm["metrics"].values():
            assert set(metric) == {"mean", "low", "high", "n", "seeds"} and metric["n"] > 0
    assert len(found["checks"]) == 4 and found["holds"] is False      # random weights show nothing
    assert claim.exit_code == 1 and not (tmp_path / "out").exists()


def test_every_arm_is_trained_from_the_same_start(llava, tmp_path):
    heard: list[str] = []
    arms, checks = trained_arms(llava, TINY, [5], tmp_path, heard.append)
    assert [arm.name for arm in arms] == [plan.name for plan in ARMS]
    assert all(arm.seeds == 1 and arm.metrics["clips: all"].n == 3 for arm in arms)
    assert len(checks) == 6 and [line.split(":")[0] for line in heard] == [f"seed 5, {plan.name}" for plan in ARMS]
    assert {folder.name for folder in (tmp_path / "seed5").iterdir()} == {
        "read", *(plan.name.replace(" ", "-") for plan in ARMS)}


def test_arms_differ_in_one_thing_each():
    joint = ARMS[0]
    for plan in ARMS[1:]:
        same = replace(plan, name=joint.name)
        assert sum(getattr(same, name) != getattr(joint, name) for name in vars(joint)) == 1


def test_without_a_miniature_there_is_nothing_to_measure(tmp_path):
    with pytest.raises(CheckpointError):
        reproduce(quick=True, weights=str(tmp_path / "absent"))
