"""How good clips are: by the world's oracle on held-out captions, and by features of any encoder on anybody's clips.

A consistency is never reported without the motion score beside it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diorama.checkpoints import resolve
from diorama.errors import CheckpointError
from diorama.metrics import Interval, bootstrap, proportion
from diorama.systems.emu_video.data import WorldClipsConfig, clip_caption, moving_scene
from diorama.systems.emu_video.files import read_clip_list, read_frames, usable
from diorama.systems.emu_video.motion import Consistency, consistency
from diorama.systems.emu_video.pipeline import EmuVideo, Sampling
from diorama.world.captions import full_name
from diorama.world.judging import attributes_held, both_bound, does, has_object
from diorama.world.oracle import read_image, read_video
from diorama.world.sampling import Split
from diorama.world.scene import Scene
from diorama.world.statements import Description

Features = Callable[[Tensor], Tensor]
"""Frames uint8 (T, 3, S, S) -> features (T, D)."""
AT_ONCE = 8
GOALS = {"image: color and shape": 0.90, "image: two bound": 0.75, "clip: attributes held": 0.80,
         "clip: motion word": 0.75}
"""What the shipped miniatures are meant to reach on held-out captions."""


@dataclass(frozen=True)
class Examined:
    """One caption with what was made of it: the scene it tells of, an image (3, S, S) and a clip (T, 3, S, S)."""

    scene: Scene
    caption: str
    image: Tensor
    clip: Tensor


def pixel_features(frames: Tensor) -> Tensor:
    """The pixels themselves, around their middle: what there is without an encoder."""
    return frames.flatten(1).float() - 127.5


def clip_features(name_or_path: str, *, device: str = "cpu") -> Features:
    """The image features of a CLIP checkpoint of transformers (the paper takes ViT-B/32), a folder or a hub id."""
    from transformers import AutoImageProcessor, CLIPVisionModelWithProjection

    folder = resolve(name_or_path)
    try:
        model: Any = CLIPVisionModelWithProjection.from_pretrained(folder, local_files_only=True)
        processor: Any = AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{name_or_path} cannot be read as CLIP ({str(error).splitlines()[0][:200]}). "
                              "Pass a folder or hub id of one, such as openai/clip-vit-base-patch32.") from error

    model.to(device).eval()

    @torch.no_grad()
    def features(frames: Tensor) -> Tensor:
        pixels = processor(list(frames.permute(0, 2, 3, 1).numpy()), return_tensors="pt")["pixel_values"]
        return model(pixel_values=pixels.to(device)).image_embeds.cpu()

    return features


def make_clips(emu: EmuVideo, prompts: int, split: Split, *, sampling: Sampling, seed: int = 50_000_000,
               progress: Callable[[int], None] | None = None) -> list[Examined]:
    """Images and clips for captions of scenes that training never saw, text alone given."""
    config = WorldClipsConfig(frames=emu.config.temporal.frames, fps=emu.config.fps, split=split, seed=seed)
    scenes = [moving_scene(config, number) for number in range(prompts)]
    captions = [clip_caption(scene, Random(f"examined {seed + n}")) for n, scene in enumerate(scenes)]
    made: list[Examined] = []
    for begin in range(0, prompts, AT_ONCE):
        some = captions[begin : begin + AT_ONCE]
        own = replace(sampling, seed=sampling.seed + begin)
        images = emu.draw(some, steps=own.steps, seed=own.seed)
        clips = emu.animate(images, some, own)
        made += [Examined(scenes[begin + k], some[k], images[k].cpu(), clips[k].cpu()) for k in range(len(some))]
        if progress:
            progress(len(made))
    return made


def judged(examined: Sequence[Examined], fps: float) -> dict[str, Interval]:
    """What the oracle says of images and clips; where it is not sure it counts as wrong."""
    verdicts: dict[str, list[bool]] = defaultdict(list)
    for one in examined:
        image, clip = read_image(one.image), read_video(one.clip, fps=fps)
        names = [full_name(one.scene, k) for k in range(len(one.scene.objects))]
        looks = [Description(name.shape, name.color) for name in names]
        verdicts["image: color and shape"] += [has_object(image, look) is True for look in looks]
        if len(looks) == 2:
            verdicts["image: two bound"].append(both_bound(image, *looks) is True)
        for look, thing in zip(looks, one.scene.objects, strict=True):
            for motion in thing.motions[:1]:
                if motion.kind not in ("appear", "vanish"):
                    verdicts["clip: attributes held"].append(attributes_held(clip, look) is True)
                verdicts["clip: motion word"].append(does(clip, look, motion.kind) is True)
    return {name: proportion(sum(found), len(found)) for name, found in verdicts.items()}


def moved(clips: Sequence[Tensor], features: Features = pixel_features) -> dict[str, Interval]:
    """Consistency of clips uint8 (T, 3, S, S) with the motion score beside it, and the share that is still."""
    found: list[Consistency] = [consistency(features(clip), clip.permute(0, 2, 3, 1).contiguous()) for clip in clips]
    return {
        "frame consistency": bootstrap([one.frames for one in found]),
        "image consistency": bootstrap([one.image for one in found]),
        "motion score": bootstrap([one.motion for one in found]),
        "still clips": proportion(sum(one.is_still for one in found), len(found)),
    }


def table(metrics: dict[str, Interval]) -> str:
    """One line a metric, with its goal where it has one and whether it is reached."""
    lines = []
    for name, value in metrics.items():
        form = ".1%" if name in GOALS or name == "still clips" else ".3f"
        line = f"{name:24} {value.mean:{form}} ({value.low:{form}} - {value.high:{form}}, n {value.n})"
        if name in GOALS:
            line += f"   goal {GOALS[name]:.0%}{'' if value.mean >= GOALS[name] else ', not reached'}"
        lines.append(line)
    return "\n".join(lines)


def animated_files(emu: EmuVideo, data: Path, media: Path | None, count: int, sampling: Sampling) -> list[Tensor]:
    """Clips (T, 3, S, S) made from the first frames and captions of up to `count` clips on disk."""
    frames, fps = emu.config.temporal.frames, emu.config.fps
    files = usable(read_clip_list(data, media), frames, fps)[:count]
    made: list[Tensor] = []
    for begin in range(0, len(files), AT_ONCE):
        some = files[begin : begin + AT_ONCE]
        images = torch.stack([read_frames(file, frames, fps, emu.base.image_size)[0] for file in some])
        captions = [file.captions[0] for file in some]
        made += list(emu.animate(images, captions, replace(sampling, seed=sampling.seed + begin)).cpu())
    return made


def as_frames(clip: Tensor) -> np.ndarray:
    """A clip (T, 3, S, S) as `media.videos.write_video` takes it, (T, S, S, 3)."""
    return clip.permute(0, 2, 3, 1).contiguous().cpu().numpy()
