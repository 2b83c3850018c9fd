"""The oracle: from pixels alone back to objects, places, tracks and motions.

`read_image`, `read_images` and `read_video` return readings (`diorama.world.readings`) that say how sure they are;
`diorama.world.judging` holds captions and scenes against them. Camera and light are not told to the oracle.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from diorama.errors import InputError
from diorama.world import inspection
from diorama.world.detector import Detector, detect, fit, load_detector
from diorama.world.explaining import explained
from diorama.world.readings import SURE, ImageReading, VideoReading, reading_of
from diorama.world.tracks import tracks_of

FAINT = 0.1
"""Least score of a candidate that keeps a track alive."""


def read_image(pixels: Tensor, *, least: float = SURE, detector: Detector | None = None) -> ImageReading:
    """Read one picture uint8 (3, S, S), or the first of (1, 3, S, S). See `read_images`."""
    images = pixels if pixels.ndim == 4 else pixels.unsqueeze(0)
    if len(images) != 1:
        raise InputError(f"read_image was given {len(images)} pictures; pass one, or use read_images or read_video.")
    return read_images(images, least=least, detector=detector)[0]


def read_images(pixels: Tensor, *, least: float = SURE, closely: bool = True,
                detector: Detector | None = None) -> list[ImageReading]:
    """Read pictures uint8 (B, 3, S, S), each on its own.

    `least` is the score from which a candidate counts as an object; `detector` replaces the shipped network. Pictures
    with something unsure get a second look (`diorama.world.inspection`), which takes about a second each; without
    `closely` a reading is what the network says at first sight.
    Raises InputError for another type or shape, and CheckpointError where no network is shipped.
    """
    model = detector or load_detector()
    if not closely:
        return [reading_of(found) for found in detect(pixels, model, least=least)]
    candidates = detect(pixels, model, least=min(least, inspection.FAINT))
    return [inspection.inspected(image, found, least=least, side=pixels.shape[-1])
            for image, found in zip(fit(pixels), candidates, strict=True)]


def read_video(
    pixels: Tensor,
    *,
    times: Sequence[float] | None = None,
    fps: float | None = None,
    detector: Detector | None = None,
) -> VideoReading:
    """Read a clip uint8 (T, 3, S, S) whose frames were taken at `times` seconds, or evenly with `fps` a second.

    Motions need several frames a second: a quick spin repeats itself every half second. Raises InputError for
    neither or both of `times` and `fps`, for times that do not rise, and for pixels that `read_images` refuses.
    """
    if (times is None) == (fps is None):
        raise InputError("read_video needs either the times of the frames or their number a second, and not both. "
                         "Pass, for example, fps=8.")
    if fps is not None and not fps > 0:
        raise InputError(f"fps={fps} is no frame rate. Pass a number above 0.")
    moments = tuple(float(t) for t in times) if times is not None else tuple(i / (fps or 1) for i in range(len(pixels)))
    if len(moments) != len(pixels) or not moments or any(b <= a for a, b in pairwise(moments)):
        raise InputError(f"{len(moments)} times were given for {len(pixels)} frames, or they do not rise. "
                         "Pass one time a frame, each later than the one before.")
    start = moments[0]
    moments = tuple(t - start for t in moments)
    model = detector or load_detector()
    found = detect(pixels, model, least=FAINT)
    sure = tuple(reading_of([c for c in frame if c.score >= SURE]) for frame in found)
    tracks = tracks_of(found, moments)
    return VideoReading(explained(tracks, pixels, moments) if len(moments) > 2 else tracks, sure, moments)
