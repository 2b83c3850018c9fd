"""Pictures: any common file in, upright 8-bit RGB out."""

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from diorama.errors import InputError, MediaError
from diorama.media.content import check_size, describe_content, existing_file
from diorama.media.resizing import center_crop, pad_square, resize, resize_shortest
from diorama.media.writing import written_whole

__all__ = ["center_crop", "load_image", "open_image", "pad_square", "resize", "resize_shortest", "save_image",
           "to_image", "to_rgb", "to_tensor"]

# Formats whose decoders run no other program and recognise their files by signature.
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "PPM", "JPEG2000")
DECODING_ERRORS = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, struct.error,
                   zlib.error)
_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    ".png": {}, ".bmp": {}, ".jpg": {"quality": 95, "subsampling": 0}, ".jpeg": {"quality": 95, "subsampling": 0},
    ".webp": {"quality": 95, "method": 4}}


def load_image(path: Path | str) -> Image.Image:
    """The picture at `path` as 8-bit RGB, upright.

    EXIF rotation is applied, 16 bits are scaled (not clipped) to 8, transparency is laid on white, CMYK and
    palettes become RGB (embedded color profiles are not applied), and of an animation or a document the first
    frame is taken. The content decides, not the suffix.

    Raises MediaError for a file that is absent, empty, truncated, no picture, or larger than 16,384 pixels a side
    or 100 million in all (found before any pixel is decoded).
    """
    with open_image(path) as image, _told_as_media_error(path):
        return to_rgb(image)


@contextmanager
def open_image(path: Path | str) -> Iterator[Image.Image]:
    """The picture at `path` as Pillow opens it, no pixel decoded yet; MediaError where that is impossible."""
    path = existing_file(path, "a picture")
    try:
        with warnings.catch_warnings(action="ignore"):
            image = Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise MediaError(f"{path.name} holds more pixels than can be decoded safely. "
                         "Scale or crop it first.") from error
    except UnidentifiedImageError as error:
        raise MediaError(f"{path.name} cannot be read as a picture: it holds {describe_content(path)}. "
                         f"Pass a picture ({', '.join(FORMATS[:5])} ...).") from error
    except DECODING_ERRORS as error:
        raise MediaError(f"{path.name} is damaged: it begins as {describe_content(path)} but its header does not "
                         "parse. Download or export it again.") from error
    with image:
        check_size(*image.size, path.name)
        yield image


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow picture as upright 8-bit RGB, by the rules of `load_image`; decodes the pixels."""
    with warnings.catch_warnings(action="ignore"):
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16") or image.mode in ("I", "F"):
            return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
        if image.has_transparency_data:
            layers = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers).convert("RGB")
        return image.convert("RGB")


def save_image(path: Path | str, image: Image.Image | NDArray[np.uint8]) -> None:
    """Write a Pillow picture or a uint8 array (H, W, 3) or (H, W); the suffix is .png, .jpg, .jpeg, .webp or .bmp.

    JPEG and BMP hold no transparency: it is laid on white. The file appears whole or not at all.
    Raises InputError for another suffix or array, MediaError where the place cannot be written.
    """
    path = Path(path)
    options = _SAVE_OPTIONS.get(path.suffix.lower())
    if options is None:
        raise InputError(f"{path.name} has the suffix {path.suffix!r}, to which no picture is written. "
                         f"Use one of {', '.join(_SAVE_OPTIONS)}.")
    if not isinstance(image, Image.Image):
        image = _from_array(np.asarray(image))
    if path.suffix.lower() != ".png" or image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        image = image.convert("RGBA") if image.mode == "RGBA" and path.suffix.lower() == ".webp" else to_rgb(image)
    with written_whole(path) as temporary:
        image.save(temporary, **options)


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB picture as float32 (3, H, W) in 0..1; other modes are converted as `load_image` does."""
    pixels = np.array(image if image.mode == "RGB" else to_rgb(image))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float() / 255


def to_image(pixels: Tensor) -> Image.Image:
    """A tensor (3, H, W), uint8 or float in 0..1 (rounded, clamped), as an RGB picture."""
    if pixels.ndim != 3 or pixels.shape[0] != 3:
        raise InputError(f"A tensor of shape {tuple(pixels.shape)} is not one RGB picture. Pass (3, height, width).")
    if pixels.is_floating_point():
        pixels = (pixels.detach().float() * 255).round().clamp(0, 255).to(torch.uint8)
    return _from_array(pixels.permute(1, 2, 0).cpu().contiguous().numpy())


def _from_array(pixels: NDArray[np.uint8]) -> Image.Image:
    channels = pixels.shape[2:]
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or channels not in ((), (3,)) or 0 in pixels.shape:
        raise InputError(f"An array of shape {pixels.shape} and type {pixels.dtype} is not a picture. "
                         "Pass uint8 (height, width, 3) or (height, width).")
    return Image.fromarray(pixels)


def _eight_bits(pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Grey levels of 16 bits (integers up to 65,535) or floats in 0..1, scaled to 0..255 and rounded."""
    low, high = float(pixels.min()), float(pixels.max())
    full = 1.0 if np.issubdtype(pixels.dtype, np.floating) else 65535.0
    if not (low >= 0 and high <= full):
        raise MediaError(f"The grey levels run from {low:g} to {high:g}, which has no agreed black and white. "
                         f"Rescale them to 0..{full:g}.")
    return np.round(pixels.astype(np.float64) * (255 / full)).astype(np.uint8)


@contextmanager
def _told_as_media_error(path: Path | str) -> Iterator[None]:
    try:
        yield
    except MediaError:
        raise
    except DECODING_ERRORS as error:
        raise MediaError(f"{Path(path).name} is damaged or cut off: its pixels cannot all be decoded. "
                         "Download or export it again.") from error
