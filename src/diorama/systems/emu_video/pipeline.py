"""Load it, let it draw.

    emu = EmuVideo.from_pretrained("emu-video-mini")
    image = emu.draw(["a red cube"])                                    # (1, 3, S, S), uint8
    clips = emu.animate(image, ["a red cube slides left"])              # (1, T, 3, S, S), uint8
    clips = emu.interpolate(clips, ["a red cube slides left"])          # (1, 4T + 5, 3, S, S)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from diorama.checkpoints import load_into, miniature_names, read_config, read_tensors, resolve, write_checkpoint
from diorama.diffusion import schedules
from diorama.diffusion.samplers import sample_ddim
from diorama.diffusion.text import Condition, joined
from diorama.diffusion.text_once import text_once
from diorama.diffusion.text_to_image import TextToImage
from diorama.errors import CheckpointError, InputError
from diorama.systems.emu_video.conditioning import Conditions, first_frame, guided
from diorama.systems.emu_video.config import SYSTEM, EmuVideoConfig
from diorama.systems.emu_video.interpolation import given_keyframes, interpolated_length, join, window_starts
from diorama.systems.emu_video.model import VideoModel
from diorama.systems.emu_video.modes import Mode
from diorama.systems.emu_video.train import decode_frames, encode_frames
from diorama.systems.emu_video.weights import build_video, read_modelscope, read_motion_adapter

DEFAULT = "emu-video-mini"
INTERPOLATOR = "emu-video-interpolator-mini"
IMAGE_FOLDER = "image"
"""Where a checkpoint keeps its image base, if it carries one."""
HOW_TO_TRAIN = ("train one on the world with `diorama emu-video train --stage video --init text-to-image-mini`, and "
                "pass its folder with --weights")


@dataclass(frozen=True)
class Sampling:
    """How clips are drawn; None takes the checkpoint's own number."""

    steps: int | None = None
    guidance_image: float | None = None
    guidance_text: float | None = None
    seed: int = 0


class EmuVideo:
    """An image base with the layers over time around it, and what it takes to draw a clip."""

    config: EmuVideoConfig
    name: str

    def __init__(self, base: TextToImage, video: VideoModel, config: EmuVideoConfig, *, name: str = "",
                 interpolator: EmuVideo | None = None):
        if interpolator is not None and interpolator.config.role != "interpolator":
            raise InputError(f"{interpolator.name or 'The model'} was passed as an interpolator and is a "
                             f"{interpolator.config.role} model. Pass what `train --stage interpolate` left.")
        self.base = base
        self.device = base.device
        self.video = video.to(self.device).eval()
        self.config = config
        self.mode = Mode.of(config.mode)
        self.name = name
        self.interpolator = interpolator

    @classmethod
    def new(cls, base: TextToImage, config: EmuVideoConfig) -> EmuVideo:
        """A video model that still is its image base, frame by frame."""
        return cls(base, build_video(base.network, config), replace(config, pixels=base.image_size))

    @property
    def takes_image(self) -> bool:
        """Whether a given frame changes anything: public layers and untrained ones have a second input of zeros."""
        return bool(self.video.given.weight.any())

    # ---- drawing -------------------------------------------------------------------------------------------------

    def draw(self, captions: Sequence[str], *, guidance: float | None = None, steps: int | None = None,
             seed: int = 0) -> Tensor:
        """First frames uint8 (B, 3, S, S): the image base alone, in its own mode (section 3.1, inference)."""
        own = self.config.sampling
        return self.base.generate(captions, steps=steps or own.steps, seed=seed,
                                  guidance=own.guidance_text if guidance is None else guidance)

    @torch.no_grad()
    def animate(self, images: Tensor | None, captions: Sequence[str], sampling: Sampling | None = None) -> Tensor:
        """Clips uint8 (B, T, 3, S, S) that begin with the images uint8 (B, 3, S, S), or with nothing given if None.

        Row i depends on `seed` + i alone. Raises InputError for other shapes, and naming the step at which a value
        that is NaN or infinite appeared.
        """
        given = None
        frames = self.config.temporal.frames
        if images is not None:
            if len(images) != len(captions):
                raise InputError(f"{len(images)} images came with {len(captions)} captions. Pass one caption an image.")
            given = first_frame(self.base.to_latents(images), frames)
        return decode_frames(self.base, self._sample(given, captions, frames, sampling or Sampling()))

    def generate(self, captions: Sequence[str], sampling: Sampling | None = None) -> Tensor:
        """Clips from text alone: an image is drawn, then the clip that begins with it."""
        sampling = sampling or Sampling()
        return self.animate(self.draw(captions, steps=sampling.steps, seed=sampling.seed), captions, sampling)

    @torch.no_grad()
    def interpolate(self, clips: Tensor, captions: Sequence[str], sampling: Sampling | None = None) -> Tensor:
        """Clips uint8 (B, F, 3, S, S) at four times the rate: (B, 4F + 5, 3, S, S), keyframe k at 4k + 4.

        Longer clips than the interpolator's go through in windows, all of them as one batch, and are put together
        without a hole. Raises InputError without an interpolator or for clips shorter than it was trained on.
        """
        if self.interpolator is None:
            raise InputError(f"{self.name or 'This model'} has no interpolator, so no frames can be put between. Train "
                             "one with `diorama emu-video train --stage interpolate`, or leave --interpolate out.")
        model, length = self.interpolator, self.interpolator.config.temporal.frames
        starts = window_starts(clips.shape[1], length)
        latents = encode_frames(self.base, clips)
        windows = torch.cat([latents[:, start : start + length] for start in starts])
        sampling = sampling or Sampling()
        generator = torch.Generator().manual_seed(sampling.seed)
        given = given_keyframes(windows, model.mode, noise=model.config.interpolation.noise, generator=generator)
        made = model._sample(given, list(captions) * len(starts), interpolated_length(length), sampling)
        per_clip = made.unflatten(0, (len(starts), len(clips))).transpose(0, 1)
        return decode_frames(self.base, torch.stack([join(some, starts, length) for some in per_clip]))

    def _sample(self, given: Tensor | None, captions: Sequence[str], frames: int, sampling: Sampling) -> Tensor:
        """Latents (B, T, C, H, W) by DDIM with times dense near pure noise and the guidance of equation 1."""
        own = self.config.sampling
        scales = (own.guidance_image if sampling.guidance_image is None else sampling.guidance_image,
                  own.guidance_text if sampling.guidance_text is None else sampling.guidance_text)
        generators = [torch.Generator().manual_seed(sampling.seed + row) for row in range(len(captions))]
        shape = (frames, *self.base.latent_shape)
        noise = torch.stack([torch.randn(shape, generator=g) for g in generators]).to(self.device)
        conditions = self.conditions(captions, given)
        visited = schedules.dense_near_noise(len(self.mode.schedule), sampling.steps or own.steps)
        with text_once(self.video.image) as memory:
            denoise = guided(self.video, self.mode, conditions, scales, memory=memory)
            return sample_ddim(denoise, noise, self.mode.schedule, visited)

    def conditions(self, captions: Sequence[str], given: Tensor | None) -> Conditions:
        """Captions with the empty one, in the same number of tokens, and given frames."""
        both = joined([self.base.encode_text(captions), self.base.encode_text([""])])
        nothing = both.rows([len(captions)] * len(captions))
        text = both.rows(list(range(len(captions))))
        return Conditions(text, nothing, None if given is None else given.to(self.device))

    @torch.no_grad()
    def text_gain(self, clips: Tensor, captions: Sequence[str], *, times: int = 8, seed: int = 0) -> Tensor:
        """How much better the network tells the noise in clips uint8 (B, T, 3, S, S) with their captions than without:
        the mean drop of its squared error over `times` even times, (B,). Larger is a better fit of text and clip."""
        latents = encode_frames(self.base, clips)
        conditions = self.conditions(captions, first_frame(latents[:, 0], latents.shape[1]))
        generator = torch.Generator().manual_seed(seed)
        gain = torch.zeros(len(clips), device=self.device)
        for index in schedules.evenly(len(self.mode.schedule), times + 2)[1:-1]:
            eps = torch.randn(latents.shape, generator=generator).to(self.device)
            where = torch.full((len(clips),), index)
            noisy, wanted = self.mode.noised(latents, eps, where), self.mode.wanted(latents, eps, where)
            errors = [self._error(noisy, where, text, conditions.given, wanted)
                      for text in (conditions.no_text, conditions.text)]
            gain += (errors[0] - errors[1]) / times
        return gain.cpu()

    def _error(self, noisy: Tensor, index: Tensor, text: Condition, given: Tensor | None, wanted: Tensor) -> Tensor:
        answer = self.video(noisy, self.mode.times(index).to(self.device), text, given)
        return (answer - wanted).pow(2).flatten(1).mean(1)

    # ---- loading and saving --------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path = DEFAULT, *, device: str = "auto", dtype: str | None = None,
        strict: bool = True, revision: str | None = None, token: str | None = None,
        local_files_only: bool | None = None, cache_dir: str | Path | None = None,
        interpolator: str | Path | None = None, base: TextToImage | None = None,
    ) -> EmuVideo:
        """A shipped miniature, or a folder or hub id that `save_pretrained` wrote.

        interpolator: the checkpoint of one that goes with it. base: the image base, where it is loaded already.
        Raises CheckpointError for what is absent, of another system, or incomplete (unless strict is False).
        """
        folder = found(name_or_path, revision=revision, token=token, local_files_only=local_files_only,
                       cache_dir=cache_dir)
        values = read_config(folder)
        if values.get("system") != SYSTEM:
            raise CheckpointError(f"{folder} is a checkpoint of {values.get('system', 'something else')!r}, not of "
                                  f"Emu Video. {HOW_TO_TRAIN[0].upper()}{HOW_TO_TRAIN[1:]}.")
        config = EmuVideoConfig.from_dict(values)
        if base is None:
            own = folder / IMAGE_FOLDER
            if not own.is_dir() and config.image_base is None:
                raise CheckpointError(f"{folder} names no image base and has no folder {IMAGE_FOLDER!r}, so its layers "
                                      "have nothing to stand on. Save it again with its image base.")
            base = TextToImage.from_pretrained(own if own.is_dir() else str(config.image_base), device=device,
                                               dtype=dtype, local_files_only=local_files_only, cache_dir=cache_dir)
        video = build_video(base.network, config)
        added = {name: tensor.float() for name, tensor in read_tensors(folder).items()}
        load_into(video, {**_image_tensors(video), **added}, strict=strict)
        if dtype is not None:
            video.to(getattr(torch, dtype))
        between = None
        if interpolator is not None:
            between = cls.from_pretrained(interpolator, device=device, dtype=dtype, base=base,
                                          local_files_only=local_files_only, cache_dir=cache_dir)
        return cls(base, video, config, name=str(name_or_path), interpolator=between)

    def save_pretrained(self, folder: str | Path, *, card: str, dtype: torch.dtype | None = None,
                        with_image: bool = True) -> Path:
        """Write config, the added weights and the card as one folder that `from_pretrained` reads.

        with_image: put the image base into the folder too; otherwise its name is noted and it must be found by it.
        """
        folder = Path(folder)
        config = replace(self.config, image_base=None if with_image else self.base.name)
        added = {name: tensor for name, tensor in self.video.state_dict().items() if not name.startswith("image.")}
        write_checkpoint(folder, config.to_dict(), added, card, dtype)
        if with_image:
            self.base.save_pretrained(folder / IMAGE_FOLDER, card="# The image base\n\nAs it was trained.", dtype=dtype)
        return folder


def found(name_or_path: str | Path, **where: Any) -> Path:
    """The folder of a checkpoint; CheckpointError saying what to train where a miniature is not shipped yet."""
    if str(name_or_path) in (DEFAULT, INTERPOLATOR) and str(name_or_path) not in miniature_names():
        raise CheckpointError(f"No weights are shipped as {name_or_path} yet, so nothing can be drawn with them: "
                              f"{HOW_TO_TRAIN}.")
    return resolve(name_or_path, **where)


def _image_tensors(video: VideoModel) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in video.state_dict().items() if name.startswith("image.")}


def import_checkpoint(name_or_path: str, layout: Literal["motion-adapter", "modelscope"], base: str | None, out: Path,
                      *, device: str = "auto") -> Path:
    """Public video weights as a folder that `EmuVideo.from_pretrained` reads; the image base is inside.

    base: the text-to-image checkpoint that a motion adapter goes around. Raises CheckpointError.
    """
    folder = resolve(name_or_path)
    if layout == "modelscope":
        image, video, config = read_modelscope(folder, device=device)
    else:
        assert base is not None
        image = TextToImage.from_pretrained(base, device=device)
        video, config = read_motion_adapter(folder, image)
    card = f"# {name_or_path}\n\nPublic weights in the layout {layout}, as diorama imported them; nothing was trained."
    return EmuVideo(image, video, config, name=name_or_path).save_pretrained(out, card=card)
