"""The motion score: still is 0, faster is more, brightness does not matter; and no consistency without it."""

import numpy as np
import pytest
import torch

from diorama.errors import InputError
from diorama.systems.emu_video.motion import consistency, least_windowed_motion, motion_score, motion_scores
from diorama.world.rendering import render
from diorama.world.scene import Motion, MotionKind, Pace, Scene, SceneObject


def clip(kind: MotionKind | None, pace: Pace = "quickly", size: int = 32) -> np.ndarray:
    """Eight frames of a cube that does one thing for 1.4 seconds."""
    motions = (Motion(kind, 0.0, 1.4, pace),) if kind else ()
    scene = Scene((SceneObject("cube", "red", "large", motions=motions),), duration=1.4)
    return render([scene], size=size, frames=8, samples=2).rgb[0].permute(0, 2, 3, 1).contiguous().numpy()


def test_a_still_clip_scores_zero() -> None:
    assert motion_score(clip(None)) == 0.0
    assert motion_scores(clip(None)).shape == (7,)


@pytest.mark.parametrize("kind", ["left", "up", "towards", "spin", "grow"])
def test_quick_scores_above_slow(kind: MotionKind) -> None:
    slow, quick = motion_score(clip(kind, "slowly")), motion_score(clip(kind, "quickly"))
    assert 1.0 < slow < quick


def test_brightness_does_not_matter() -> None:
    """To the noise of the coder, which rounds colors anew at each brightness."""
    dark = (clip("left") * 0.6).astype(np.uint8)
    assert motion_score(dark + 60) == pytest.approx(motion_score(dark), rel=0.3)


def test_size_hardly_matters() -> None:
    assert motion_score(clip("left", size=64)) == pytest.approx(motion_score(clip("left", size=32)), rel=0.35)


def test_the_bar_for_quality_is_the_least_mean_over_a_window() -> None:
    scores = np.array([1.0] * 10 + [0.0] * 10)
    assert least_windowed_motion(scores) == 0.0
    assert least_windowed_motion(scores[:10]) == 1.0
    assert least_windowed_motion(np.array([0.0, 2.0]), window=1) == 1.0


def test_consistency_rewards_stillness_and_says_so() -> None:
    """Pitfall 12: chosen by consistency alone, the frozen clip wins."""
    frozen, moving = clip(None), clip("left")
    features = {name: torch.from_numpy(np.ascontiguousarray(frames)).flatten(1).float() - 128
                for name, frames in (("frozen", frozen), ("moving", moving))}
    still, lively = consistency(features["frozen"], frozen), consistency(features["moving"], moving)
    assert still.frames > lively.frames and still.image > lively.image
    assert still.is_still and not lively.is_still
    assert still.frames == pytest.approx(1.0, abs=1e-5)


def test_what_is_no_clip_is_refused() -> None:
    with pytest.raises(InputError, match="at least two frames"):
        motion_scores(clip("left")[:1])
    with pytest.raises(InputError, match="float64"):
        motion_scores(clip("left") / 255)
    with pytest.raises(InputError, match="one row of features a frame"):
        consistency(torch.zeros(7, 3), clip("left"))
