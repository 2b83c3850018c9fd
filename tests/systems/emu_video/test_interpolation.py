"""Keyframes in their places, windows put together without a hole or a repeat, the baseline they are compared with."""

import pytest
import torch

from diorama.errors import InputError
from diorama.systems.emu_video.config import ModeConfig
from diorama.systems.emu_video.interpolation import (
    given_keyframes,
    interpolated_length,
    join,
    keyframe_places,
    linear_blend,
    stitched,
    window_starts,
)
from diorama.systems.emu_video.modes import Mode

MODE = Mode.of(ModeConfig())


@pytest.mark.parametrize("frames", [1, 2, 4, 8, 16])
def test_places_and_lengths(frames: int) -> None:
    places = keyframe_places(frames)
    assert interpolated_length(frames) == 4 * frames + 5
    assert places == [4 * k + 4 for k in range(frames)]
    assert places[-1] + 4 == interpolated_length(frames) - 1, "four are extrapolated after the last"
    given = given_keyframes(torch.randn(2, frames, 3, 2, 2), MODE, noise=100)
    assert given[:, :, 0].flatten(2).amax(-1).sum(1).tolist() == [frames] * 2, "the mask's sum is T"


def test_eight_frames_become_thirty_seven() -> None:
    assert interpolated_length(8) == 37 and keyframe_places(8) == [4, 8, 12, 16, 20, 24, 28, 32]


def test_only_the_keyframes_are_noised_and_the_mask_stays_binary() -> None:
    """Pitfall 11."""
    keyframes = torch.randn(2, 4, 3, 6, 6)
    generator = torch.Generator().manual_seed(0)
    given = given_keyframes(keyframes, MODE, noise=torch.tensor([0, 250]), generator=generator)
    places = keyframe_places(4)
    others = [i for i in range(21) if i not in places]
    assert set(given[:, :, 0].unique().tolist()) == {0.0, 1.0}
    assert (given[:, others] == 0).all()
    off = (given[:, places, 1:] - keyframes).abs().mean((1, 2, 3, 4))
    assert 0 < off[0] < 0.05 < off[1]


@pytest.mark.parametrize("keyframes, length", [(8, 8), (16, 8), (24, 8), (19, 8), (9, 8), (5, 4), (7, 2), (4, 1)])
def test_windows_put_together_are_consecutive(keyframes: int, length: int) -> None:
    """On one clock every frame is there once: no hole (the paper's dropping of 5 and 4 leaves one), no repeat."""
    starts = window_starts(keyframes, length)
    chosen = stitched(starts, length)
    clock = [4 * starts[window] + frame for window, frame in chosen]
    assert clock == list(range(4 * keyframes + 5))
    covered = {start + k for start in starts for k in range(length)}
    assert covered == set(range(keyframes))
    for k in range(keyframes):
        window, frame = chosen[4 * k + 4]
        assert frame in keyframe_places(length), f"keyframe {k} of window {window} is one of its own"


def test_two_windows_of_eight_are_cut_between_the_keyframes() -> None:
    """A[0..33] and B[34..68]: 69 frames, 65 without the four extrapolated ones at an end."""
    chosen = stitched([0, 8], 8)
    assert len(chosen) == 69
    assert chosen[33] == (0, 33) and chosen[34] == (1, 2)


def test_join_takes_the_frames_that_were_chosen() -> None:
    clock = torch.stack([torch.arange(37) + 4 * start for start in (0, 8)]).float()
    assert torch.equal(join(clock.reshape(2, 37, 1, 1, 1), [0, 8], 8).flatten(), torch.arange(69).float())


def test_windows_that_leave_frames_out_are_refused() -> None:
    with pytest.raises(InputError, match="leave some out"):
        stitched([0, 9], 8)
    with pytest.raises(InputError, match="leave some out"):
        stitched([0, 0], 8)
    with pytest.raises(InputError, match="at least 8"):
        window_starts(7, 8)


def test_the_blend_passes_through_the_keyframes_and_lies_between_them() -> None:
    keyframes = torch.randn(2, 4, 3, 2, 2)
    blend = linear_blend(keyframes)
    assert blend.shape == (2, 21, 3, 2, 2)
    torch.testing.assert_close(blend[:, keyframe_places(4)], keyframes)
    torch.testing.assert_close(blend[:, 6], (keyframes[:, 0] + keyframes[:, 1]) / 2)
    assert torch.equal(blend[:, 0], keyframes[:, 0]) and torch.equal(blend[:, 20], keyframes[:, 3])
