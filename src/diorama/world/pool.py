"""A pool of rendered scenes on disk: pixels as one memory-mapped array, the scenes beside them as JSON lines.

Training draws from a pool many times and words its captions and questions afresh each time, so every scene is rendered
once. A pool is a pure function of its `PoolConfig`; an existing folder with the same config is opened, not rendered.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np

from diorama.world.keeping import keep
from diorama.world.rendering import render
from diorama.world.sampling import Split, sample_scene
from diorama.world.scene import Scene
from diorama.world.variation import family


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """What a pool holds: `families` sampled scenes, each with its variations up to `members` scenes in all."""

    families: int
    members: int = 1
    frames: int = 1
    """1 makes pictures of still scenes; more makes clips of moving ones."""
    size: int = 64
    samples: int = 2
    split: Split = "train"
    objects: tuple[int, int] = (1, 5)
    movers: tuple[int, int] = (1, 2)
    seed: int = 0
    """Scenes are sampled from the seeds `seed`, `seed` + 1, ..."""


@dataclass(frozen=True)
class Pool:
    """N scenes with their pixels uint8 (N, T, 3, H, W) and whether each object can be seen, bool (N, 5)."""

    scenes: list[Scene]
    pixels: np.ndarray
    mask: np.ndarray
    """int8 (N, T, H, W): the object in each pixel's middle, -1 for none."""
    visible: np.ndarray
    family: np.ndarray
    """int64 (N,): scenes with the same number are variations of one another."""

    def __len__(self) -> int:
        return len(self.scenes)


VISIBLE_SHARE = 0.35
"""An object counts as visible in a picture when at least this share of its outline is seen, in a clip if it is so in
at least half of the frames in which it is there."""


def pool_scenes(config: PoolConfig) -> tuple[list[Scene], list[int]]:
    """The scenes of a pool and the family number of each."""
    scenes, families = [], []
    for number in range(config.families):
        seed = config.seed + number
        scene = sample_scene(
            seed, split=config.split, objects=config.objects, moving=config.frames > 1, movers=config.movers
        )
        rng = Random(f"diorama family {seed} {config.split}")
        members = family(scene, config.members, config.split, rng)
        scenes += members
        families += [number] * len(members)
    return scenes, families


def open_pool(folder: Path, config: PoolConfig, *, progress: Callable[[int, int], None] | None = None) -> Pool:
    """The pool in `folder`, rendered there first if it is not there yet; `progress(done, all)` hears of the rendering.

    Raises InputError when the folder holds something else, or a pool made with another config.
    """
    keep(folder, config, "scenes of a pool", lambda new: _write_pool(new, config, progress))
    lines = (folder / "scenes.jsonl").read_text().splitlines()
    return Pool(
        scenes=[Scene.from_dict(json.loads(line)) for line in lines],
        pixels=np.load(folder / "pixels.npy", mmap_mode="r"),
        mask=np.load(folder / "mask.npy", mmap_mode="r"),
        visible=np.load(folder / "visible.npy"),
        family=np.load(folder / "family.npy"),
    )


def _write_pool(folder: Path, config: PoolConfig, progress: Callable[[int, int], None] | None) -> None:
    scenes, families = pool_scenes(config)
    shape = (len(scenes), config.frames, 3, config.size, config.size)
    pixels = np.lib.format.open_memmap(folder / "pixels.npy", mode="w+", dtype=np.uint8, shape=shape)
    mask = np.lib.format.open_memmap(folder / "mask.npy", mode="w+", dtype=np.int8, shape=shape[:2] + shape[3:])
    visible = np.zeros((len(scenes), 5), dtype=bool)
    step = max(1, 256 // config.frames)
    for start in range(0, len(scenes), step):
        rows = slice(start, min(start + step, len(scenes)))
        pixels[rows], mask[rows], seen = draw(scenes[rows], config)
        visible[rows, : seen.shape[1]] = seen
        if progress:
            progress(rows.stop, len(scenes))
    pixels.flush()
    mask.flush()
    np.save(folder / "visible.npy", visible)
    np.save(folder / "family.npy", np.array(families))
    (folder / "scenes.jsonl").write_text("".join(json.dumps(scene.to_dict()) + "\n" for scene in scenes))


def draw(scenes: list[Scene], config: PoolConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels (N, T, 3, H, W), masks (N, T, H, W) and which objects can be seen (N, K) of some scenes."""
    fine = render(scenes, size=config.size, frames=config.frames, samples=config.samples)
    plain = render(scenes, size=config.size, frames=config.frames)
    return fine.rgb.numpy(), plain.mask.numpy(), seen_objects(fine.visible.numpy())


def draw_pool(config: PoolConfig) -> Pool:
    """A pool in memory, for a small number of scenes."""
    scenes, families = pool_scenes(config)
    step = max(1, 256 // config.frames)
    parts = [draw(scenes[start : start + step], config) for start in range(0, len(scenes), step)]
    visible = np.zeros((len(scenes), 5), dtype=bool)
    for start, (_, _, seen) in zip(range(0, len(scenes), step), parts, strict=True):
        visible[start : start + len(seen), : seen.shape[1]] = seen
    pixels, mask = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    return Pool(scenes, pixels, mask, visible, np.array(families))


def seen_objects(visible: np.ndarray) -> np.ndarray:
    """Which objects can be seen, bool (B, K), from the shares (B, T, K) of a `Rendering`."""
    there = visible > 0
    clear = (visible >= VISIBLE_SHARE).sum(1)
    return (clear > 0) & (2 * clear >= there.sum(1))
