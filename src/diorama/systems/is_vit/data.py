"""Images to calibrate, train and examine on: folders, scikit-learn's digits, and objects of the world.

Legend: labelled images are (N, 3, S, S) uint8 with int64 labels (N,); what a model sees comes from `Preprocessing`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diorama.console import note
from diorama.errors import InputError, MissingExtra
from diorama.media.images import load_image
from diorama.media.resizing import Interpolation, center_crop, resize, resize_shortest
from diorama.world.pool import PoolConfig, pool_scenes
from diorama.world.rendering import render
from diorama.world.sampling import NOVEL_LOOKS
from diorama.world.scene import COLORS, SHAPES, Scene

Part = Literal["train", "test"]
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
DIGITS_TEST = 500
"""The last images of scikit-learn's digits, by a fixed order, are the test part."""
RENDERED_AT_ONCE = 256
NEARER = 0.15
"""Share of an object's distance from the middle that is left in its picture from close by."""
WORLD_CLASSES = tuple(f"{color} {shape}" for color, shape in product(COLORS, SHAPES)
                      if (color, shape) not in NOVEL_LOOKS)
"""Color and shape of one object, without the pairs that only the split "novel" shows."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """An image to the pixels of a model: resize, cut the middle out, scale, normalise.

    resize_to: the shorter side before the crop; None resizes both sides to `size`, as transformers' ViT does.
    """

    size: int
    resize_to: int | None = None
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    interpolation: Interpolation = "bicubic"

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Normalised float32 pixels (N, 3, size, size)."""
        return self.normalise(torch.stack([torch.from_numpy(np.array(self._cut(image))) for image in images])
                              .permute(0, 3, 1, 2))

    def _cut(self, image: Image.Image) -> Image.Image:
        if self.resize_to is None:
            return resize(image, self.size, self.size, interpolation=self.interpolation)
        return center_crop(resize_shortest(image, self.resize_to, interpolation=self.interpolation), self.size)

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 (N, 3, size, size) as normalised float32."""
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return (pixels.float() / 255 - mean) / std

    def to_dict(self) -> dict[str, Any]:
        """As preprocessor_config.json of transformers' ViTImageProcessor."""
        size = {"shortest_edge": self.resize_to} if self.resize_to else {"height": self.size, "width": self.size}
        values = {"image_processor_type": "ViTImageProcessor", "do_resize": True, "size": size, "do_rescale": True,
                  "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": list(self.mean),
                  "image_std": list(self.std), "resample": _RESAMPLE.index(self.interpolation)}
        if self.resize_to:
            values |= {"do_center_crop": True, "crop_size": {"height": self.size, "width": self.size}}
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any], size: int) -> Preprocessing:
        """From preprocessor_config.json, for a model of `size` pixels."""
        edge = values.get("size", {})
        shortest = edge.get("shortest_edge") if isinstance(edge, dict) else None
        crops = values.get("do_center_crop", False)
        if crops and shortest is None:
            shortest = edge.get("height") if isinstance(edge, dict) else edge
        normalised = values.get("do_normalize", True)
        return cls(size=size, resize_to=max(int(shortest), size) if crops and shortest else None,
                   mean=_three(values.get("image_mean", (0.5,) * 3)) if normalised else (0.0,) * 3,
                   std=_three(values.get("image_std", (0.5,) * 3)) if normalised else (1.0,) * 3,
                   interpolation=cast(Interpolation, _RESAMPLE[values.get("resample", 3)] or "bicubic"))


_RESAMPLE = ("nearest", "", "bilinear", "bicubic")
"""By Pillow's number."""


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return first, second, third


@dataclass(frozen=True)
class Labelled:
    """Images uint8 (N, 3, S, S), labels int64 (N,), and the names of the classes."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> Labelled:
        """The first `count` of them."""
        return Labelled(self.images[:count], self.labels[:count], self.classes)


# ---- sets -----------------------------------------------------------------------------------------------------------


def digits(part: Part, size: int = 32) -> Labelled:
    """scikit-learn's 1797 handwritten digits, 8 x 8 grey, upscaled (bicubic) to size x size; raises MissingExtra."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtra("scikit-learn", "data", "The image set digits") from error
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    chosen = order[:-DIGITS_TEST] if part == "train" else order[-DIGITS_TEST:]
    grey = [Image.fromarray((found.images[row] * (255 / 16)).round().astype(np.uint8)) for row in chosen]
    pixels = np.stack([np.array(image.resize((size, size), Image.Resampling.BICUBIC)) for image in grey])
    images = torch.from_numpy(pixels)[:, None].expand(-1, 3, -1, -1).contiguous()
    return Labelled(images, torch.from_numpy(found.target[chosen].astype(np.int64)), tuple("0123456789"))


def world(part: Part, count: int, size: int = 32, *, seed: int = 0) -> Labelled:
    """One object of the world from close by, in size x size pixels, by color and shape.

    Both parts draw scenes of their own split; `seed` numbers the first scene.
    """
    scenes, _ = pool_scenes(PoolConfig(families=count, split=part, objects=(1, 1), seed=seed))
    close = [_from_close(scene) for scene in scenes]
    images = [render(close[start:start + RENDERED_AT_ONCE], size=size).rgb[:, 0]
              for start in range(0, count, RENDERED_AT_ONCE)]
    names = [f"{scene.objects[0].color} {scene.objects[0].shape}" for scene in scenes]
    labels = torch.tensor([WORLD_CLASSES.index(name) for name in names])
    return Labelled(torch.cat(images), labels, WORLD_CLASSES)


def _from_close(scene: Scene) -> Scene:
    """The scene with its object near the middle and the camera at half its distance."""
    x, y, z = scene.objects[0].position
    thing = replace(scene.objects[0], position=(NEARER * x, NEARER * y, z))
    return replace(scene, objects=(thing,), camera=replace(scene.camera, distance=scene.camera.distance / 2))


def labelled_folder(folder: Path, size: int, *, most: int | None = None) -> Labelled:
    """Images in one folder a class, resized to size x size; raises InputError where there are none or one class."""
    classes = sorted(child.name for child in folder.iterdir() if child.is_dir()) if folder.is_dir() else []
    if len(classes) < 2:
        raise InputError(f"{folder} holds {len(classes)} folders, and each class needs one. "
                         "Pass a folder such as val/, with val/<class>/*.jpg in it.")
    images, labels = [], []
    for label, name in enumerate(classes):
        for path in image_files(folder / name)[:most]:
            cut = resize(load_image(path), size, size)
            images.append(torch.from_numpy(np.array(cut)).permute(2, 0, 1))
            labels.append(label)
    if not images:
        raise InputError(f"No image lies in the folders of {folder}. Pass one with <class>/*.jpg in it.")
    return Labelled(torch.stack(images), torch.tensor(labels), tuple(classes))


def image_files(folder: Path) -> list[Path]:
    """Every image file under a folder, in the order of their names; raises InputError if it is no folder."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder, so no images can be taken from it. "
                         "Pass a folder of images, or one of: digits, world.")
    found = [Path(root) / name for root, _, names in os.walk(folder) for name in names
             if name.lower().endswith(SUFFIXES)]
    return sorted(found)


# ---- calibration ----------------------------------------------------------------------------------------------------


def calibration_pixels(source: str, preprocessing: Preprocessing, count: int, *, batch: int, seed: int = 0,
                       few: bool = False, told: Callable[[str], None] = note) -> Tensor:
    """`count` unlabelled images as a model sees them, (N, 3, S, S), shuffled by `seed`.

    source: "digits", "world" (both from their training part), or a folder of images. With fewer images than `count`
    all are taken, and `told` hears of it. Raises InputError for an empty folder, and, unless `few`, for fewer images
    than a batch.
    """
    if source in ("digits", "world"):
        found = digits("train", preprocessing.size) if source == "digits" else world("train", count, seed=500_000)
        order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))[:count]
        images = found.images[order]
        if images.shape[-1] == preprocessing.size:
            pixels = preprocessing.normalise(images)
        else:
            pixels = preprocessing([Image.fromarray(one.permute(1, 2, 0).numpy()) for one in images])
        check_count(len(pixels), count, batch, source, few, told)
        return pixels
    files = calibration_files(source, count, batch=batch, seed=seed, few=few, told=told)
    return torch.cat([preprocessing([load_image(path)]) for path in files])


def calibration_files(source: str, count: int, *, batch: int, seed: int, few: bool, told: Callable[[str], None],
                      ) -> list[Path]:
    """At most `count` image files of a folder in a seeded order; raises InputError as `calibration_pixels` does."""
    files = image_files(Path(source))
    if not files:
        raise InputError(f"{source} holds no image ({', '.join(SUFFIXES[:4])} ...), so nothing can be calibrated on. "
                         "Pass a folder of images like those the model will see.")
    check_count(min(len(files), count), count, batch, source, few, told)
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(seed))[:count]
    return [files[row] for row in order.tolist()]


def check_count(found: int, count: int, batch: int, source: str, few: bool, told: Callable[[str], None]) -> None:
    """Raises InputError for fewer images than a batch unless `few`; `told` hears of fewer than were asked for."""
    if found < batch and not few:
        raise InputError(f"{source} holds {found} image{'s' * (found != 1)}, and a batch takes {batch}; ranges from so "
                         "few mislead. Pass more images, or --few to calibrate with what there is.")
    if found < count:
        told(f"{source} holds {found} images of the {count} asked for; all {found} are used.")


def read_images(paths: Sequence[Path]) -> list[Image.Image]:
    """Image files as RGB; raises MediaError for the first that is none, InputError for none at all."""
    if not paths:
        raise InputError("No image was named, so there is nothing to run on. Pass one or more image files.")
    return [load_image(path) for path in paths]




def named_set(source: str, part: Part, count: int, size: int, labels: Sequence[str] = ()) -> Labelled:
    """Labelled images at size x size: "digits", `count` of the "world", or at most `count` a class of a folder.

    labels: the classes that a model knows; images of a folder are numbered by them. Raises InputError for a class
    that is not among them.
    """
    if source == "digits":
        found = digits(part, size)
    elif source == "world":
        found = world(part, count, size, seed=0 if part == "train" else 1_000_000)
    else:
        found = labelled_folder(Path(source), size, most=count or None)
    if not labels or tuple(labels) == found.classes:
        return found
    unknown = [name for name in found.classes if name not in labels]
    if unknown:
        raise InputError(f"{source} has the class{'es' * (len(unknown) > 1)} {', '.join(unknown[:5])}, which the model "
                         f"does not know ({', '.join(list(labels)[:5])} ...). Examine it on images of its own classes.")
    numbers = torch.tensor([list(labels).index(name) for name in found.classes])
    return Labelled(found.images, numbers[found.labels], tuple(labels))
