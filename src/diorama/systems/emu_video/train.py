"""Training of the layers over time: what a step learns from, its loss, and the loop.

The image model is frozen, so nothing but `VideoModel.added` learns. Every step is a pure function of its number and the
seed, so a run resumes exactly.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from diorama.diffusion.image_training import time_weights
from diorama.diffusion.text import Condition
from diorama.diffusion.text_to_image import TextToImage
from diorama.errors import InputError
from diorama.systems.emu_video.conditioning import first_frame
from diorama.systems.emu_video.config import DropConfig, EmuVideoConfig
from diorama.systems.emu_video.data import Clips
from diorama.systems.emu_video.files import FileClips
from diorama.systems.emu_video.interpolation import given_keyframes, keyframe_places
from diorama.systems.emu_video.model import CaptionAttention, CaptionReader, TemporalAttention, VideoModel
from diorama.systems.emu_video.modes import Mode
from diorama.training import Run, RunConfig
from diorama.training.batches import row_indices
from diorama.training.optimizers import modules_of, parameter_groups

ENCODED_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class VideoRecipe:
    """How the layers over time are trained; the defaults are the miniature's."""

    run: RunConfig = field(default_factory=lambda: RunConfig(
        steps=1200, learning_rate=2e-3, weight_decay=0.0, betas=(0.9, 0.999), warmup=100, precision="bf16", ema=0.998,
        save_every=250, log_every=25, trainable_only=True))
    """Betas, warm-up and no weight decay are the paper's (table 3). Muon for the matrices of temporal attention and a
    rate that falls to zero are ours: a miniature has few steps."""
    batch: int = 16
    drop: DropConfig = field(default_factory=DropConfig)
    uniform_times: float = 0.25
    """Share of the times drawn evenly (1 is the paper's); the others are where the image base was trained most."""
    frozen: bool = True
    """False trains the image model as well: the ablation of section 4.1, never the recipe."""


class Source(Protocol):
    """Clips that a step draws rows of: clean latents (B, T, C, H, W) and one caption each."""

    def __len__(self) -> int: ...

    def take(self, rows: Sequence[int], rng: np.random.Generator) -> tuple[Tensor, list[str]]: ...


@dataclass(frozen=True)
class EncodedClips:
    """Clips that were encoded once, half precision (N, T, C, H, W)."""

    latents: Tensor
    captions: list[list[str]]

    def __len__(self) -> int:
        return len(self.captions)

    def take(self, rows: Sequence[int], rng: np.random.Generator) -> tuple[Tensor, list[str]]:
        return self.latents[list(rows)].float(), [str(rng.choice(self.captions[row])) for row in rows]


@dataclass(frozen=True)
class ClipsOnDisk:
    """Clips that are decoded and encoded when a step asks for them."""

    base: TextToImage
    clips: FileClips

    def __len__(self) -> int:
        return len(self.clips)

    def take(self, rows: Sequence[int], rng: np.random.Generator) -> tuple[Tensor, list[str]]:
        pixels, captions = self.clips.take(rows, rng)
        return encode_frames(self.base, pixels).cpu(), captions


def encode_frames(base: TextToImage, pixels: Tensor) -> Tensor:
    """Frames uint8 (B, T, 3, S, S) as latents (B, T, C, H, W): frame by frame, the mean and the scale of the base."""
    flat = pixels.flatten(0, 1)
    parts = [base.to_latents(flat[i : i + ENCODED_AT_ONCE]) for i in range(0, len(flat), ENCODED_AT_ONCE)]
    return torch.cat(parts).unflatten(0, pixels.shape[:2])


def decode_frames(base: TextToImage, latents: Tensor) -> Tensor:
    """The inverse of `encode_frames`: uint8 (B, T, 3, S, S)."""
    flat = latents.flatten(0, 1)
    parts = [base.to_pixels(flat[i : i + ENCODED_AT_ONCE]) for i in range(0, len(flat), ENCODED_AT_ONCE)]
    return torch.cat(parts).unflatten(0, latents.shape[:2])


def encode_clips(base: TextToImage, clips: Clips) -> EncodedClips:
    """All clips as latents on the CPU."""
    step = max(1, ENCODED_AT_ONCE // clips.pixels.shape[1])
    parts = [encode_frames(base, torch.from_numpy(np.array(clips.pixels[i : i + step]))).half().cpu()
             for i in range(0, len(clips), step)]
    return EncodedClips(torch.cat(parts), clips.captions)


def at_size(base: TextToImage, pixels: int) -> TextToImage:
    """The same image base for frames of another size: its weights are shared and simply run there (section 3.2)."""
    other = copy.copy(base)
    other.image_size = pixels
    return other


@dataclass(frozen=True)
class Lessons:
    """What each step learns from: noisy clips, what should be answered, and conditions hidden here and there."""

    base: TextToImage
    source: Source
    config: EmuVideoConfig
    recipe: VideoRecipe
    seed: int = 0

    def __call__(self, step: int) -> dict[str, Any]:
        """The batch of a step, always the same."""
        rng = np.random.default_rng((self.seed, step))
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        rows = row_indices(len(self.source), self.recipe.batch, step, self.seed)
        latents, captions = self.source.take(rows, rng)
        without_text, without_image = hidden(len(rows), self.recipe.drop, rng)
        told = ["" if hide else caption for hide, caption in zip(without_text, captions, strict=True)]
        condition = self.base.encode_text(told)
        given = self.given(latents, generator)
        given[torch.from_numpy(without_image)] = 0
        return {"latents": latents, "eps": torch.randn(latents.shape, generator=generator), "given": given,
                "index": torch.multinomial(self.weights, len(rows), replacement=True, generator=generator),
                "tokens": condition.tokens.cpu(), "mask": None if condition.mask is None else condition.mask.cpu()}

    @cached_property
    def mode(self) -> Mode:
        return Mode.of(self.config.mode)

    @cached_property
    def weights(self) -> Tensor:
        """The chance of each time, (N,)."""
        return time_weights(self.mode.schedule, self.recipe.uniform_times)

    def given(self, latents: Tensor, generator: torch.Generator) -> Tensor:
        """The frames that each clip is given: its first, or its keyframes with noise."""
        if self.config.role == "video":
            return first_frame(latents[:, 0], latents.shape[1])
        keyframes = latents[:, keyframe_places(self.config.temporal.frames)]
        noise = torch.randint(0, self.config.interpolation.most_noise + 1, (len(latents),), generator=generator)
        return given_keyframes(keyframes, self.mode, noise=noise, generator=generator)


def hidden(count: int, drop: DropConfig, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Which of `count` clips lose their text and which their image, each bool (count,)."""
    draw = rng.random(count)
    text = draw < drop.text
    image = ~text & (draw < drop.text + drop.image)
    both = ~text & ~image & (draw < drop.text + drop.image + drop.both)
    return text | both, image | both


class VideoLoss(nn.Module):
    """Mean squared error over all frames of the network's answer to noisy clips, a number a clip."""

    def __init__(self, video: VideoModel, mode: Mode):
        super().__init__()
        self.video = video
        self.mode = mode

    def forward(self, latents: Tensor, eps: Tensor, index: Tensor, tokens: Tensor, mask: Tensor | None,
                given: Tensor) -> Tensor:
        """latents and eps (B, T, C, H, W), index (B,), tokens (B, L, D), given (B, T, 1 + C, H, W) -> (B,)."""
        noisy = self.mode.noised(latents, eps, index)
        answer = self.video(noisy, self.mode.times(index), Condition(tokens, mask), given)
        return (answer - self.mode.wanted(latents, eps, index)).pow(2).flatten(1).mean(1)


def learn(video: VideoModel, lessons: Lessons, out: Path, *, device: str = "auto",
          progress: Any = "auto") -> Run:
    """Train a video model on its lessons until the run's steps are done; resumes from `out`. Returns the run.

    Raises InputError for a source with no clips, or with frames of another number than the config's.
    """
    recipe = lessons.recipe
    if not len(lessons.source):
        raise InputError("There are no clips to train on. Pass a source with at least one.")
    video.image.requires_grad_(not recipe.frozen)
    settings = {"config": lessons.config.to_dict(), "batch": recipe.batch, "frozen": recipe.frozen}
    learner = VideoLoss(video, Mode.of(lessons.config.mode))
    attention = modules_of(video, (TemporalAttention, CaptionAttention, CaptionReader))
    run = Run(out, learner, replace(recipe.run, seed=lessons.seed), device=device, settings=settings, progress=progress,
              parameters=parameter_groups(learner, recipe.run, muon=attention))
    for batch in run.batches(lessons):
        losses = run.model(**batch)
        run.step(losses.sum(), len(losses))
    video.eval()
    return run
