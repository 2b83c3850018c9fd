"""From T keyframes to 4T + 5 frames at four times the rate: where the keyframes go, how long clips are put together.

Three new frames lie in each of the T - 1 gaps, and four are extrapolated at either end (paper, appendix).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from diorama.errors import InputError
from diorama.systems.emu_video.conditioning import given_frames
from diorama.systems.emu_video.modes import Mode

FACTOR = 4
"""How many times the frame rate rises."""
ENDS = 4
"""Frames extrapolated before the first keyframe and after the last."""


def interpolated_length(keyframes: int) -> int:
    """Frames made of T keyframes: 4T + 5, which is 37 for 8."""
    return FACTOR * (keyframes - 1) + 1 + 2 * ENDS


def keyframe_places(keyframes: int) -> list[int]:
    """Where the keyframes are among the frames made: 4, 8, ..., 4T."""
    return [FACTOR * k + ENDS for k in range(keyframes)]


def given_keyframes(keyframes: Tensor, mode: Mode, *, noise: int | Tensor,
                    generator: torch.Generator | None = None) -> Tensor:
    """Keyframes (B, T, C, H, W) as the interpolator is given them: (B, 4T + 5, 1 + C, H, W), the mask first.

    The keyframes are noised to the time `noise` (one, or one a row), of the video mode's schedule; the mask stays
    binary and the other frames zero. `noise` 0 is the cleanest time, which is all but clean.
    """
    eps = torch.randn(keyframes.shape, generator=generator).to(keyframes)
    noisy = mode.noised(keyframes, eps, noise)
    frames = keyframes.shape[1]
    return given_frames(noisy, keyframe_places(frames), interpolated_length(frames))


def window_starts(keyframes: int, length: int) -> list[int]:
    """The first keyframe of each window of `length` that together cover `keyframes`, side by side; the last window is
    moved back to end with the clip. InputError when there are fewer keyframes than one window needs."""
    if keyframes < length:
        raise InputError(f"{keyframes} frames were to be interpolated by a model of {length}. "
                         f"Pass a clip of at least {length} frames.")
    starts = list(range(0, keyframes - length + 1, length))
    return starts if starts[-1] + length == keyframes else [*starts, keyframes - length]


def stitched(starts: Sequence[int], length: int) -> list[tuple[int, int]]:
    """(window, frame in it) for every frame of the whole, on one clock: none twice, none missing.

    Neighboring windows overlap by what each extrapolates; the cut is in the middle of the overlap, so that either
    window gives the frames nearer to its own keyframes. (The paper drops the last 5 and the first 4 frames of an
    overlap of 5, which leaves a hole.) Raises InputError for windows that leave keyframes out.
    """
    if any(not 0 < after - before <= length for before, after in pairwise(starts)):
        raise InputError(f"Windows of {length} keyframes that start at {list(starts)} leave some out or turn back. "
                         "Let each start after the one before, at most its length later.")
    made = interpolated_length(length)
    cuts = [FACTOR * starts[0]]
    for before, after in pairwise(starts):
        cuts.append((FACTOR * (before + after) + made - 1) // 2)
    cuts.append(FACTOR * starts[-1] + made)
    return [(window, moment - FACTOR * starts[window]) for window, (begin, end) in enumerate(pairwise(cuts))
            for moment in range(begin, end)]


def join(windows: Tensor, starts: Sequence[int], length: int) -> Tensor:
    """Interpolated windows (W, 4T + 5, ...) as one clip (4F + 5, ...) of F keyframes."""
    chosen = stitched(starts, length)
    return windows[[window for window, _ in chosen], [frame for _, frame in chosen]]


def linear_blend(keyframes: Tensor) -> Tensor:
    """The baseline: neighboring keyframes (B, T, ...) faded into each other, the ends held still; (B, 4T + 5, ...)."""
    frames = keyframes.shape[1]
    moments = (torch.arange(interpolated_length(frames)) - ENDS) / FACTOR
    moments = moments.clamp(0, frames - 1)
    before = moments.floor().long().clamp(max=max(frames - 2, 0))
    share = (moments - before).to(keyframes).reshape(1, -1, *[1] * (keyframes.ndim - 2))
    return torch.lerp(keyframes[:, before], keyframes[:, (before + 1).clamp(max=frames - 1)], share)
