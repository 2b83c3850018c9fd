"""What a clip is given: known frames in their places, zeros elsewhere, and a mask that says which are known.

The first frame (section 3.1), the keyframes of the interpolator, or any past frames: the same network input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diorama.diffusion.guidance import branch_weights, combine
from diorama.diffusion.parametrisations import Denoised
from diorama.diffusion.samplers import Denoise
from diorama.diffusion.text import Condition, Memory, joined
from diorama.errors import InputError
from diorama.systems.emu_video.model import VideoModel
from diorama.systems.emu_video.modes import Mode


def given_frames(known: Tensor, places: Sequence[int], frames: int) -> Tensor:
    """Known frames (B, K, C, H, W) at `places` of a clip of T frames: (B, T, 1 + C, H, W), the mask first.

    The mask is 1 over the whole of a known frame and 0 elsewhere, where the frame itself is zero. Raises InputError
    for places that repeat, leave the clip, or are not one a known frame.
    """
    if known.ndim != 5 or known.shape[1] != len(places):
        raise InputError(f"Known frames of shape {tuple(known.shape)} came with {len(places)} places. "
                         "Pass (clips, frames, channels, height, width) and one place a frame.")
    if len(set(places)) != len(places) or not all(0 <= place < frames for place in places):
        raise InputError(f"The places {list(places)} are no distinct frames of a clip of {frames}. "
                         f"Pass numbers from 0 to {frames - 1}, each once.")
    clips, _, channels, height, width = known.shape
    given = known.new_zeros(clips, frames, 1 + channels, height, width)
    given[:, list(places), 0] = 1
    given[:, list(places), 1:] = known
    return given


def first_frame(image: Tensor, frames: int) -> Tensor:
    """An image (B, C, H, W) given as the first of T frames."""
    return given_frames(image.unsqueeze(1), [0], frames)


@dataclass(frozen=True)
class Conditions:
    """What B clips are drawn from: their captions, the empty caption, and the frames given."""

    text: Condition
    no_text: Condition
    """The encoded empty caption B times, in as many tokens: what training drops text to, and not zeros."""
    given: Tensor | None
    """(B, T, 1 + C, H, W), or None where nothing is given; dropping it is zeros in the mask and in the frames."""

    def branch(self, number: int) -> tuple[Condition, Tensor | None]:
        """Text and given frames of branch 0 (nothing), 1 (image) or 2 (image and text)."""
        return self.text if number == 2 else self.no_text, None if number == 0 else self.given


def guided(video: VideoModel, mode: Mode, conditions: Conditions, scales: tuple[float, float], *,
           memory: Memory | None = None) -> Denoise:
    """Equation 1: X(0) + w_i (X(I) - X(0)) + w_p (X(I, p) - X(I)) as a denoiser of noisy clips (B, T, C, H, W).

    All branches that count go through the network as one batch. (1, 1) takes one branch; (1, w) and (w, w) two.
    Without given frames X(I) is X(0), so (w_i, w_p) is plain classifier-free guidance by w_p. memory: of `text_once`
    around the image model, so that captions are looked at once for all frames and steps.
    """
    weights = branch_weights(scales)
    if conditions.given is None:
        weights = [0.0, weights[0] + weights[1], weights[2]]
    counted = [number for number, weight in enumerate(weights) if weight]
    texts, knowns = zip(*(conditions.branch(number) for number in counted), strict=True)
    text, given = joined(texts), _stacked(knowns, conditions.given)
    if memory is not None:
        text = memory.of(text)

    def denoise(x: Tensor, index: Tensor) -> Denoised:
        times = mode.times(index).to(x.device).repeat(len(counted))
        answers = video(x.repeat(len(counted), *[1] * (x.ndim - 1)), times, text, given).chunk(len(counted))
        answer = combine(answers, [weights[number] for number in counted])
        assert isinstance(answer, Tensor)
        return mode.denoised(answer, x, index)

    return denoise


def _stacked(rows: Sequence[Tensor | None], given: Tensor | None) -> Tensor | None:
    if given is None or all(row is None for row in rows):
        return None
    return torch.cat([torch.zeros_like(given) if row is None else row for row in rows])
