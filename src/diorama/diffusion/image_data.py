"""Pictures with captions to learn from: the world's, rendered and described, or a folder's.

A folder holds pictures and, beside each, a text file of the same name with one caption a line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor

from diorama.errors import InputError
from diorama.media.images import load_image
from diorama.media.resizing import resize
from diorama.world.captions import Detail, caption
from diorama.world.keeping import keep
from diorama.world.options import TASKS, option_sets
from diorama.world.pool import seen_objects
from diorama.world.rendering import render
from diorama.world.sampling import Split, sample_scene
from diorama.world.scene import Scene
from diorama.world.vocabulary import split_words

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
CHUNK = 256
DETAILS: tuple[Detail, ...] = ("full", "brief", "relations")


@dataclass(frozen=True)
class Pictures:
    """uint8 pixels (N, 3, S, S) and the captions of each picture."""

    pixels: np.ndarray
    captions: list[list[str]]

    def __len__(self) -> int:
        return len(self.captions)

    def words(self) -> list[str]:
        """Every word of the captions, sorted."""
        return sorted({word for several in self.captions for one in several for word in split_words(one)})


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """Which of the world's scenes are drawn, and how they are told.

    Of every ten scenes six hold one or two objects, two one to four, and two are the first moment of a clip in which
    one or two objects will move, so that the words of motion are read too.
    """

    scenes: int = 40_000
    size: int = 32
    samples: int = 2
    captions: int = 6
    """Captions a scene: half of them phrases such as option sets hold, half whole descriptions."""
    split: Split = "train"
    seed: int = 30_000_000


def world_scene(config: WorldConfig, number: int) -> Scene:
    """Scene `number` of a set."""
    kind = number % 10
    moving = kind >= 8
    return sample_scene(config.seed + number, split=config.split, objects=(1, 4) if kind in (6, 7) else (1, 2),
                        moving=moving, movers=(1, 1))


def captions_of(scene: Scene, count: int, rng: Random, visible: Sequence[bool]) -> list[str]:
    """True captions of a scene in turn as phrases and as descriptions, each once."""
    found: dict[str, None] = {}
    for number in range(count):
        if number % 2 == 0:
            sets = option_sets(scene, rng, tasks=(rng.choice(TASKS),), visible=visible)
            if sets:
                found[sets[0].options[sets[0].answer]] = None
                continue
        found[caption(scene, rng, detail=rng.choice(DETAILS), visible=visible)] = None
    return list(found)


def world_pictures(folder: Path, config: WorldConfig, *,
                   progress: Callable[[int, int], None] | None = None) -> Pictures:
    """The pictures in `folder`, rendered there first if they are not there yet.

    Raises InputError where the folder holds something else, or pictures made with other settings.
    """
    def make(new: Path) -> None:
        pictures = draw_world(config, progress=progress)
        np.save(new / "pixels.npy", pictures.pixels)
        (new / "captions.jsonl").write_text("".join(json.dumps(c) + "\n" for c in pictures.captions))

    keep(folder, config, "pictures of the world", make)
    lines = (folder / "captions.jsonl").read_text().splitlines()
    return Pictures(np.load(folder / "pixels.npy", mmap_mode="r"), [json.loads(line) for line in lines])


def draw_world(config: WorldConfig, *, progress: Callable[[int, int], None] | None = None) -> Pictures:
    """The pictures of a set, in memory."""
    pixels = np.zeros((config.scenes, 3, config.size, config.size), dtype=np.uint8)
    captions: list[list[str]] = []
    for start in range(0, config.scenes, CHUNK):
        numbers = range(start, min(start + CHUNK, config.scenes))
        scenes = [world_scene(config, number) for number in numbers]
        shown = render(scenes, size=config.size, samples=config.samples)
        pixels[start : start + len(scenes)] = shown.rgb[:, 0].numpy()
        seen = seen_objects(shown.visible.numpy())
        for row, (number, scene) in enumerate(zip(numbers, scenes, strict=True)):
            rng = Random(f"diorama picture {config.split} {config.seed + number}")
            captions.append(captions_of(scene, config.captions, rng, seen[row].tolist()[: len(scene.objects)]))
        if progress:
            progress(start + len(scenes), config.scenes)
    return Pictures(pixels, captions)


def folder_pictures(folder: Path, size: int) -> Pictures:
    """Every picture of a folder that has a text file of its name, scaled to size x size.

    Raises InputError where there is none, or a text file is empty, and MediaError for unreadable pictures.
    """
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.with_suffix(".txt").is_file())
    if not paths:
        raise InputError(f"{folder} holds no picture with a text file of the same name beside it. "
                         "Put the captions of image.png into image.txt, one a line.")
    pixels = np.zeros((len(paths), 3, size, size), dtype=np.uint8)
    captions = []
    for row, path in enumerate(paths):
        lines = path.with_suffix(".txt").read_text(encoding="utf-8").splitlines()
        told = [line.strip() for line in lines if line.strip()]
        if not told:
            raise InputError(f"{path.with_suffix('.txt')} is empty, so {path.name} has no caption. Write one, or "
                             "remove the file.")
        pixels[row] = square_pixels(path, size).numpy()
        captions.append(told)
    return Pictures(pixels, captions)


def square_pixels(path: Path | str, size: int) -> Tensor:
    """The whole picture at `path` as uint8 (3, size, size); its sides are scaled apart where they differ, since a
    center crop would lose what captions speak of."""
    image = load_image(path)
    return torch.from_numpy(np.array(resize(image, size, size))).permute(2, 0, 1).contiguous()
