"""SelfEval on clips: which of some captions Emu Video holds likeliest for a clip, for instance which motion word.

The clip's first frame is given, so that what the captions share (colors, shapes) is settled and the motion decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from diorama.diffusion.parametrisations import Denoised
from diorama.diffusion.schedules import Schedule
from diorama.diffusion.text import Condition, Memory
from diorama.diffusion.text_once import text_once
from diorama.errors import InputError
from diorama.systems.emu_video.conditioning import first_frame
from diorama.systems.emu_video.pipeline import EmuVideo
from diorama.systems.emu_video.train import encode_frames
from diorama.systems.selfeval.config import Elimination, Estimator
from diorama.systems.selfeval.pipeline import SelfEval, Verdict


@dataclass(frozen=True)
class ClipGenerator:
    """Emu Video as what SelfEval examines; latents are (B, T, C, H, W), `given` (1, T, 1 + C, H, W) known frames."""

    emu: EmuVideo
    given: Tensor | None = None

    @property
    def schedule(self) -> Schedule:
        return self.emu.mode.schedule

    def denoiser(self, x: Tensor, index: Tensor, condition: Condition) -> Denoised:
        mode = self.emu.mode
        given = None if self.given is None else self.given.expand(len(x), *self.given.shape[1:])
        answer = self.emu.video(x, mode.times(index).to(x.device), condition, given)
        return mode.denoised(answer, x, index)

    def encode_text(self, captions: Sequence[str]) -> Condition:
        return self.emu.base.encode_text(captions)

    def text_once(self) -> AbstractContextManager[Memory]:
        return text_once(self.emu.video.image)

    def to_latents(self, pixels: Tensor) -> Tensor:
        return encode_frames(self.emu.base, pixels)


@torch.no_grad()
def score_clip(emu: EmuVideo, clip: Tensor, captions: Sequence[str], how: Estimator | Elimination | None = None, *,
               give_first: bool = True, seed: int = 0) -> Verdict:
    """Which caption the video model holds likeliest for a clip uint8 (T, 3, S, S) of as many frames as it was
    trained on.

    give_first: show it the first frame, as it is when it animates a picture. Raises InputError for other lengths.
    """
    frames = emu.config.temporal.frames
    if clip.ndim != 4 or len(clip) != frames:
        raise InputError(f"A clip of shape {tuple(clip.shape)} arrived, and the model was trained on {frames} frames. "
                         f"Sample {frames} frames of it.")
    latents = encode_frames(emu.base, clip.unsqueeze(0))
    given = first_frame(latents[:, 0], frames) if give_first else None
    return SelfEval(ClipGenerator(emu, given), how, seed=seed).judge(latents, [captions])[0]
