"""Resizing, cropping and padding without torchvision, for Pillow pictures and for tensors alike.

Tensors are (..., C, H, W), so a clip (T, C, H, W) is handled in one call; uint8 stays uint8 (rounded and clamped,
as Pillow does), floats are neither rounded nor clamped. Nothing here is random.
"""

from typing import Literal, TypeVar

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from diorama.errors import InputError

Pixels = TypeVar("Pixels", Image.Image, Tensor)
Interpolation = Literal["nearest", "bilinear", "bicubic"]

_PILLOW = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR,
           "bicubic": Image.Resampling.BICUBIC}


def resize(pixels: Pixels, height: int, width: int, *, interpolation: Interpolation = "bicubic",
           antialias: bool = True) -> Pixels:
    """`pixels` at height x width.

    Pillow always filters when it shrinks; `antialias=False` (tensors only) samples without a filter, as
    torchvision 0.15 did on floats. Raises InputError for a size below one pixel.
    """
    if height < 1 or width < 1:
        raise InputError(f"A size of {height} x {width} pixels was asked for; both must be at least 1.")
    if isinstance(pixels, Image.Image):
        if not antialias:
            raise InputError("antialias=False was asked for a Pillow picture, which always filters when it "
                             "shrinks. Convert it with to_tensor first.")
        return pixels.resize((width, height), _PILLOW[interpolation])
    _check_tensor(pixels)
    batch = pixels.reshape(-1, *pixels.shape[-3:])
    if batch.is_floating_point():
        resized = _interpolate(batch, height, width, interpolation, antialias)
    else:
        # Pillow rounds and clamps after the horizontal pass and again after the vertical one.
        resized = batch
        for size in ((batch.shape[-2], width), (height, width)):
            resized = _interpolate(resized.float(), *size, interpolation, antialias).round().clamp(0, 255)
        resized = resized.to(pixels.dtype)
    return resized.reshape(*pixels.shape[:-2], height, width)


def _interpolate(pixels: Tensor, height: int, width: int, interpolation: Interpolation, antialias: bool) -> Tensor:
    if pixels.shape[-2:] == (height, width):
        return pixels
    if interpolation == "nearest":
        return functional.interpolate(pixels, (height, width), mode="nearest-exact")
    return functional.interpolate(pixels, (height, width), mode=interpolation, antialias=antialias,
                                  align_corners=False)


def resize_shortest(pixels: Pixels, size: int, *, interpolation: Interpolation = "bicubic",
                    antialias: bool = True) -> Pixels:
    """`pixels` scaled so that the shorter side is `size`; the longer keeps the aspect, cut to whole pixels.

    The rule of CLIP's preprocessing (longer side = int(size * longer / shorter)).
    """
    height, width = size_of(pixels)
    short = min(height, width)
    return resize(pixels, size * height // short, size * width // short, interpolation=interpolation,
                  antialias=antialias)


def center_crop(pixels: Pixels, size: int) -> Pixels:
    """The central size x size pixels; an odd margin leaves the extra row or column below and to the right.

    Raises InputError when a side is shorter than `size`.
    """
    height, width = size_of(pixels)
    if size < 1 or min(height, width) < size:
        raise InputError(f"A {size} x {size} crop was asked of {width} x {height} pixels, which do not hold it. "
                         "Resize first with resize_shortest.")
    top, left = (height - size) // 2, (width - size) // 2
    if isinstance(pixels, Image.Image):
        return pixels.crop((left, top, left + size, top + size))
    return pixels[..., top:top + size, left:left + size]


def pad_square(pixels: Pixels, color: tuple[int, int, int] = (122, 116, 104)) -> Pixels:
    """`pixels` in the middle of a square of its longer side, filled with `color` (0-255 a channel).

    The default is CLIP's mean color, as LLaVA pads (Video-LLaVA, official evaluation). Float tensors are taken to
    run from 0 to 1.
    """
    height, width = size_of(pixels)
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    if isinstance(pixels, Image.Image):
        square = Image.new("RGB", (side, side), color)
        square.paste(pixels, (left, top))
        return square
    if pixels.shape[-3] != 3:
        raise InputError(f"Padding with an RGB color needs 3 channels; the tensor is {tuple(pixels.shape)}. "
                         "Put channels before height and width.")
    fill = torch.tensor(color, device=pixels.device)
    fill = (fill / 255 if pixels.is_floating_point() else fill).to(pixels.dtype)
    canvas = fill[:, None, None].expand(*pixels.shape[:-2], side, side).clone()
    canvas[..., top:top + height, left:left + width] = pixels
    return canvas


def size_of(pixels: Image.Image | Tensor) -> tuple[int, int]:
    """Height and width in pixels."""
    if isinstance(pixels, Image.Image):
        return pixels.height, pixels.width
    _check_tensor(pixels)
    return pixels.shape[-2], pixels.shape[-1]


def _check_tensor(pixels: Tensor) -> None:
    if pixels.ndim < 3 or 0 in pixels.shape or not (pixels.dtype == torch.uint8 or pixels.is_floating_point()):
        raise InputError(f"A tensor of shape {tuple(pixels.shape)} and type {pixels.dtype} arrived; pixels are "
                         "uint8 or float, (..., channels, height, width), and not empty. Permute or convert it.")
