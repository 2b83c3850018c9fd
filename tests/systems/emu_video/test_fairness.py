"""Two clips made alike: one size, one length, one rate, the middle of each."""

import pytest
import torch

from diorama.errors import InputError
from diorama.systems.emu_video.fairness import Shown, fair_pair


def ramp(frames: int, height: int, width: int) -> torch.Tensor:
    """Frame k has level k."""
    return torch.arange(frames, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(frames, 3, height, width).contiguous()


def test_size_length_and_rate_are_those_of_the_smaller_shorter_and_slower() -> None:
    first, second = fair_pair(Shown(ramp(32, 48, 64), 16.0), Shown(ramp(40, 32, 40), 8.0))
    for clip in (first, second):
        assert clip.frames.shape == (16, 3, 32, 32) and clip.fps == 8.0
    assert first.frames[:, 0, 0, 0].tolist() == list(range(1, 33, 2)), "every second frame"
    assert second.frames[:, 0, 0, 0].tolist() == list(range(12, 28)), "the middle two of five seconds"


def test_clips_that_are_alike_stay_as_they_are() -> None:
    clip = Shown(torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8), 4.0)
    first, second = fair_pair(clip, clip)
    assert torch.equal(first.frames, clip.frames) and torch.equal(second.frames, clip.frames)


def test_the_middle_is_kept_in_space_too() -> None:
    wide = torch.zeros(2, 3, 4, 8, dtype=torch.uint8)
    wide[..., 2:6] = 200
    first, _ = fair_pair(Shown(wide, 2.0), Shown(ramp(2, 4, 4), 2.0))
    assert (first.frames == 200).all()


def test_what_is_no_clip_is_refused() -> None:
    with pytest.raises(InputError, match="frames a second"):
        Shown(ramp(4, 8, 8), 0.0)
    with pytest.raises(InputError, match="float32"):
        Shown(ramp(4, 8, 8).float(), 4.0)
