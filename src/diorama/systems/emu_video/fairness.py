"""Two clips made alike before people compare them, so that size, length and rate decide nothing (section 4).

Both are cropped in the middle to squares, scaled bilinearly to the smaller side, cut in the middle to the shorter time,
and shown at the lower of their rates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diorama.errors import InputError
from diorama.media.resizing import center_crop, resize


@dataclass(frozen=True)
class Shown:
    """A clip as it is shown: uint8 (T, 3, H, W), and frames a second."""

    frames: Tensor
    fps: float

    def __post_init__(self) -> None:
        if self.frames.ndim != 4 or self.frames.shape[1] != 3 or self.frames.dtype != torch.uint8 or not self.fps > 0:
            raise InputError(f"A clip of shape {tuple(self.frames.shape)}, type {self.frames.dtype} and {self.fps:g} "
                             "frames a second arrived. Pass uint8 (frames, 3, height, width) at a rate above 0.")

    @property
    def seconds(self) -> float:
        return len(self.frames) / self.fps


def fair_pair(first: Shown, second: Shown) -> tuple[Shown, Shown]:
    """Both clips as squares of one size, of one length and at one rate."""
    side = min(*first.frames.shape[2:], *second.frames.shape[2:])
    seconds, fps = min(first.seconds, second.seconds), min(first.fps, second.fps)
    count = max(1, round(seconds * fps))
    return _alike(first, side, count, fps), _alike(second, side, count, fps)


def _alike(clip: Shown, side: int, count: int, fps: float) -> Shown:
    start = (clip.seconds - count / fps) / 2
    moments = start + (torch.arange(count) + 0.5) / fps
    chosen = (moments * clip.fps).floor().long().clamp(0, len(clip.frames) - 1)
    square = center_crop(clip.frames[chosen], min(clip.frames.shape[2:]))
    return Shown(resize(square, side, side, interpolation="bilinear"), fps)
