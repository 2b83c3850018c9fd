"""Clips with captions to learn from: the world's, rendered once and described in several wordings.

The frames of a clip lie 1 / fps seconds apart around the middle of what happens in its scene. With `between` the frames
that the interpolator makes are rendered as well, at four times the rate.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np

from diorama.systems.emu_video.interpolation import ENDS, FACTOR, interpolated_length, keyframe_places
from diorama.world.captions import full_name, realize
from diorama.world.keeping import keep
from diorama.world.rendering import render
from diorama.world.sampling import Split, sample_scene
from diorama.world.scene import Scene
from diorama.world.statements import Does, Exists, Statement
from diorama.world.vocabulary import a, split_words

RENDERED_AT_ONCE = 32


@dataclass(frozen=True)
class Clips:
    """uint8 pixels (N, T, 3, S, S), the captions of each clip, and frames a second."""

    pixels: np.ndarray
    captions: list[list[str]]
    fps: float

    def __len__(self) -> int:
        return len(self.captions)

    def words(self) -> list[str]:
        """Every word of the captions, sorted."""
        return sorted({word for several in self.captions for one in several for word in split_words(one)})

    def only(self, rows: Sequence[int]) -> Clips:
        """The clips of these rows."""
        return Clips(self.pixels[list(rows)], [self.captions[row] for row in rows], self.fps)

    def keyframes(self) -> Clips:
        """Of clips with the frames between, the keyframes alone."""
        length = (self.pixels.shape[1] - interpolated_length(1)) // FACTOR + 1
        return Clips(self.pixels[:, keyframe_places(length)], self.captions, self.fps / FACTOR)


@dataclass(frozen=True, kw_only=True)
class WorldClipsConfig:
    """Which of the world's clips are drawn and how they are told: one object does one thing, and `still` do nothing."""

    clips: int = 6000
    frames: int = 8
    """T (table 3)."""
    fps: float = 4.0
    """The 512-pixel stages run at 4 frames a second (table 3)."""
    between: bool = False
    """Render the 4T + 5 frames at four times the rate instead of the T keyframes."""
    size: int = 32
    samples: int = 2
    objects: tuple[int, int] = (1, 2)
    still: float = 0.1
    captions: int = 4
    """Wordings a clip."""
    split: Split = "train"
    seed: int = 40_000_000


def moving_scene(config: WorldClipsConfig, number: int) -> Scene:
    """Scene `number` of a set; one in every 1 / `still` has no motion."""
    is_still = Random(f"still {config.seed + number}").random() < config.still
    return sample_scene(config.seed + number, split=config.split if not is_still else "train", objects=config.objects,
                        moving=True, movers=(0, 0) if is_still else (1, 1))


def moments(scene: Scene, config: WorldClipsConfig) -> list[float]:
    """The seconds of a clip's frames: as many as fit around the middle of what happens, within the scene."""
    length = (config.frames - 1) / config.fps
    motions = [motion for thing in scene.objects for motion in thing.motions]
    middle = sum(m.start + m.end for m in motions) / (2 * len(motions)) if motions else scene.duration / 2
    start = min(max(middle - length / 2, 0.0), max(scene.duration - length, 0.0))
    if not config.between:
        return [start + k / config.fps for k in range(config.frames)]
    return [start + (k - ENDS) / (FACTOR * config.fps) for k in range(interpolated_length(config.frames))]


def clip_caption(scene: Scene, rng: Random) -> str:
    """One true caption: what each object is, and what it does or that it stays still; "the" is never said."""
    told: list[Statement] = []
    idle = []
    for index, thing in enumerate(scene.objects):
        name = full_name(scene, index)
        if thing.motions:
            motion = thing.motions[0]
            paced = motion.kind not in ("appear", "vanish") and rng.random() < 0.5
            told.append(Does(name, motion.kind, motion.pace if paced else None))
        else:
            idle.append(name)
    if not told:
        return ". ".join(f"{a(name.words())} stays still" for name in idle)
    statements = [*told, *(Exists(name) for name in idle)]
    if rng.random() < 0.5:
        statements.reverse()
    return realize(statements, [False] * len(statements), rng)


def draw_clips(config: WorldClipsConfig, *, progress: Callable[[int, int], None] | None = None) -> Clips:
    """The clips of a set, in memory."""
    frames = interpolated_length(config.frames) if config.between else config.frames
    pixels = np.zeros((config.clips, frames, 3, config.size, config.size), dtype=np.uint8)
    captions: list[list[str]] = []
    for begin in range(0, config.clips, RENDERED_AT_ONCE):
        numbers = range(begin, min(begin + RENDERED_AT_ONCE, config.clips))
        for number in numbers:
            scene = moving_scene(config, number)
            shown = render([scene], size=config.size, samples=config.samples, times=moments(scene, config))
            pixels[number] = shown.rgb[0].numpy()
            rng = Random(f"diorama clip {config.split} {config.seed + number}")
            captions.append(list(dict.fromkeys(clip_caption(scene, rng) for _ in range(config.captions))))
        if progress:
            progress(numbers.stop, config.clips)
    return Clips(pixels, captions, rate(config))


def world_clips(folder: Path, config: WorldClipsConfig, *,
                progress: Callable[[int, int], None] | None = None) -> Clips:
    """The clips in `folder`, rendered there first if they are not there yet.

    Raises InputError where the folder holds something else, or clips made with other settings.
    """
    def make(new: Path) -> None:
        clips = draw_clips(config, progress=progress)
        np.save(new / "pixels.npy", clips.pixels)
        (new / "captions.jsonl").write_text("".join(json.dumps(c) + "\n" for c in clips.captions))

    keep(folder, config, "clips of the world", make)
    lines = (folder / "captions.jsonl").read_text().splitlines()
    return Clips(np.load(folder / "pixels.npy", mmap_mode="r"), [json.loads(line) for line in lines], rate(config))


def rate(config: WorldClipsConfig) -> float:
    """Frames a second of what is rendered."""
    return config.fps * (FACTOR if config.between else 1)
