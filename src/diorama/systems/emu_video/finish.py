"""A trained video model or interpolator made ready to ship: half precision, and a card that says how good it is.

A video model is examined by the world's oracle on held-out captions, an interpolator by the true frames between.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diorama.checkpoints import CARD, write_text
from diorama.diffusion.text_to_image import TextToImage
from diorama.errors import CheckpointError
from diorama.metrics import Interval, bootstrap, paired_difference
from diorama.systems.emu_video.data import WorldClipsConfig, draw_clips
from diorama.systems.emu_video.evaluate import judged, make_clips, moved, table
from diorama.systems.emu_video.interpolation import keyframe_places, linear_blend
from diorama.systems.emu_video.pipeline import EmuVideo, Sampling

MEASURED = "measured.json"
HELD_OUT_BETWEEN = WorldClipsConfig(split="test", between=True, still=0.0, seed=51_000_000)


def finish(source: Path, out: Path, *, prompts: int = 100, image_base: str | None = None, seed: int = 0,
           device: str = "auto", progress: Callable[[int], None] | None = None) -> dict[str, Any]:
    """Write the model in `source` to `out` as it is shipped; the numbers on its card, also in measured.json.

    prompts: held-out captions, or clips for an interpolator. image_base: the name of a shipped image model that has the
    weights of this one's base, which is then left out of the folder. Raises CheckpointError for a folder without the
    card that training left, or another base.
    """
    if not (source / CARD).is_file():
        raise CheckpointError(f"{source} has no {CARD}, so how it was trained is not known. "
                              "Pass the model folder that `diorama emu-video train` left.")
    emu = EmuVideo.from_pretrained(source, device=device)
    if image_base is not None:
        emu.base = same_base(emu, image_base, device)
    is_interpolator = emu.config.role == "interpolator"
    measured = between_keyframes(emu, prompts, seed) if is_interpolator else examined(emu, prompts, seed, progress)
    what = f"{prompts} clips" if is_interpolator else f"{prompts} captions"
    card = "\n".join([(source / CARD).read_text(encoding="utf-8").rstrip(), "",
                      f"Measured by `diorama emu-video finish` on {what} of the test split, seed {seed}:", "",
                      "```", table(measured), "```", ""])
    emu.save_pretrained(out, card=card, dtype=torch.float16, with_image=image_base is None)
    found = {"measured": {name: asdict(value) for name, value in measured.items()}, "prompts": prompts, "seed": seed}
    write_text(out / MEASURED, json.dumps(found, indent=1) + "\n")
    return found


def same_base(emu: EmuVideo, name: str, device: str) -> TextToImage:
    """The image model `name`, which must be the base that the video model was trained around."""
    base = TextToImage.from_pretrained(name, device=device)
    ours, theirs = emu.base.modules().state_dict(), base.modules().state_dict()
    differs = [key for key in ours if key not in theirs or not torch.equal(ours[key], theirs[key])]
    if differs or len(ours) != len(theirs):
        raise CheckpointError(f"{name} is not the image model that {emu.name} was trained around: "
                              f"{len(differs)} tensors differ. Leave --image-base out.")
    return base


def examined(emu: EmuVideo, prompts: int, seed: int,
             progress: Callable[[int], None] | None = None) -> dict[str, Interval]:
    """The oracle's verdicts on clips of held-out captions, and how much they move."""
    made = make_clips(emu, prompts, "test", sampling=Sampling(seed=seed), progress=progress)
    return {**judged(made, emu.config.fps), **moved([one.clip for one in made])}


def between_keyframes(emu: EmuVideo, count: int, seed: int) -> dict[str, Interval]:
    """How near the frames between true keyframes are to the true ones, and those of a linear blend; PSNR in dB."""
    frames = emu.config.temporal.frames
    config = replace(HELD_OUT_BETWEEN, clips=count, frames=frames, fps=emu.config.fps, size=emu.base.image_size)
    clips = draw_clips(config)
    true = torch.from_numpy(clips.pixels.copy())
    places = keyframe_places(frames)
    model = EmuVideo(emu.base, emu.video, replace(emu.config, role="video"), interpolator=emu)
    made = model.interpolate(true[:, places], [told[0] for told in clips.captions],
                             Sampling(guidance_image=1.0, guidance_text=1.0, seed=seed)).cpu()
    inside = [k for k in range(places[0], places[-1]) if k not in places]
    ours, blend = (psnr(some[:, inside].float(), true[:, inside].float())
                   for some in (made, linear_blend(true[:, places].float())))
    return {"between: PSNR": bootstrap(ours), "between: PSNR of a linear blend": bootstrap(blend),
            "between: gain over it": paired_difference(ours, blend)}


def psnr(found: Tensor, true: Tensor) -> np.ndarray:
    """Peak signal-to-noise ratio of clips (B, T, 3, S, S) in 0 .. 255, in dB; (B,)."""
    error = (found - true).square().flatten(1).mean(1).clamp(min=1e-3)
    return (10 * torch.log10(255**2 / error)).numpy()
