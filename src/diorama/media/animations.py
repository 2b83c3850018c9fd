"""GIF and animated PNG, WebP and AVIF as clips, with Pillow (which lays each frame on the ones before)."""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from os import SEEK_END
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diorama.errors import InputError, MediaError
from diorama.media.images import DECODING_ERRORS, open_image, to_rgb
from diorama.media.timeline import Timeline
from diorama.media.writing import written_whole

ANIMATED_FORMATS = ("GIF", "PNG", "WEBP", "AVIF")
UNTIMED_SECONDS = 0.1
"""How long a frame without a delay is shown: what browsers do."""
MAX_GIF_FPS = 50
"""Browsers slow a GIF down whose frames last less than 2/100 s."""


def is_animation(image: Image.Image) -> bool:
    """Whether an opened picture holds more than one frame meant to be shown in turn."""
    return image.format in ANIMATED_FORMATS and _count(image) > 1


def scan(path: Path) -> Timeline:
    """Timeline of the animation at `path`; frames after the first that cannot be decoded count as unreadable.

    A GIF does not say how many frames it should have, so one without its end mark is refused (MediaError).
    """
    delays: list[float] = []                           # milliseconds, as the files count
    with open_image(path) as image:
        first = _first(image)
        total = _count(image)
        for index in range(total):
            try:
                image.seek(first + index)
                image.load()
            except DECODING_ERRORS:
                break
            delays.append(image.info.get("duration") or 1000 * UNTIMED_SECONDS)
        if not delays:
            raise MediaError(f"{path.name} is damaged or cut off: not one of its {total} frames can be decoded. "
                             "Download or export it again.")
        readable = len(delays)
        if image.format == "GIF" and readable == total and not _is_ended(path):
            raise MediaError(f"{path.name} breaks off: {readable} frames ({sum(delays) / 1000:.2f} s) can be decoded "
                             "and the end is missing. Download or export it again.")
        delays += delays[-1:] * (total - readable)
        ends = [end / 1000 for end in accumulate(delays)]
        return Timeline((0.0, *ends[:-1]), ends[-1], readable, *image.size)


def decode(path: Path, indices: Sequence[int]) -> dict[int, NDArray[np.uint8]]:
    """RGB frames (H, W, 3) at `indices`, transparency laid on white; a frame that fails to decode is left out."""
    frames = {}
    with open_image(path) as image:
        for index in sorted(set(indices)):
            try:
                image.seek(_first(image) + index)
                frames[index] = np.array(to_rgb(image))
            except DECODING_ERRORS:
                break
    return frames


def write_gif(path: Path, frames: Iterable[NDArray[np.uint8]], fps: float) -> None:
    """An endless GIF. Delays are in 1/100 s and alternate so that the average is `fps`; equal frames in a row are
    stored once and shown longer; each frame has its own palette of 256 colors."""
    if fps > MAX_GIF_FPS:
        raise InputError(f"{fps:g} frames a second were asked for and a GIF shows at most {MAX_GIF_FPS}. "
                         "Lower fps or write an .mp4.")
    pictures = [Image.fromarray(pixels) for pixels in frames]
    ends = [round(100 * (index + 1) / fps) for index in range(len(pictures))]
    delays = [10 * (end - begin) for begin, end in zip([0, *ends], ends, strict=False)]
    with written_whole(path) as temporary:
        pictures[0].save(temporary, save_all=True, append_images=pictures[1:], duration=delays, loop=0)


def _is_ended(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-min(path.stat().st_size, 64), SEEK_END)
        return file.read().rstrip(b"\0\r\n").endswith(b";")


def _first(image: Image.Image) -> int:
    """An animated PNG may begin with a still that is not part of the animation."""
    return 1 if image.info.get("default_image") else 0


def _count(image: Image.Image) -> int:
    try:
        return getattr(image, "n_frames", 1) - _first(image)
    except DECODING_ERRORS:
        return 1
