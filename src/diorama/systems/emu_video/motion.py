"""How much moves in a clip, by the motion vectors of H.264, and how alike its frames are; the two belong together.

A frozen clip has perfect consistency, so `Consistency` always carries the motion score beside it and says when a clip
is still (paper, table 7: the most "consistent" method barely moves).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from diorama.errors import InputError

SIDE = 256
"""Pixels of the longer side at which motion is measured, so that clips of any size can be compared."""
STILL = 0.1
"""Motion score under which a clip counts as still; the slowest motions of diorama's world score above 1."""
WINDOW = 5
"""Frames to either side over which selection for high quality averages (appendix, HQ data)."""


def motion_scores(frames: NDArray[np.uint8] | Tensor) -> NDArray[np.float64]:
    """The motion energy of each frame of a clip uint8 (T, H, W, 3) but the first, (T - 1,), in squared pixels.

    The clip, scaled to 256 pixels on its longer side, is coded as H.264 without B-frames; a frame's energy is the mean
    over its area of the squared length of the motion vectors. Parts without a vector count as still.
    Raises InputError for fewer than two frames or other pixels.
    """
    pixels = np.asarray(frames.cpu() if isinstance(frames, Tensor) else frames)
    if pixels.ndim != 4 or pixels.shape[-1] != 3 or pixels.dtype != np.uint8 or len(pixels) < 2:
        raise InputError(f"Motion is measured between frames, and a clip of shape {pixels.shape} and type "
                         f"{pixels.dtype} arrived. Pass at least two frames, uint8 (frames, height, width, 3).")
    scale = SIDE / max(pixels.shape[1:3])
    size = tuple(max(round(side * scale / 2), 1) * 2 for side in (pixels.shape[2], pixels.shape[1]))
    large = [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR)) for frame in pixels]
    with io.BytesIO() as file:
        _encode(file, large)
        file.seek(0)
        return np.asarray(_energies(file)[1:])


def motion_score(frames: NDArray[np.uint8] | Tensor) -> float:
    """The mean motion energy of a clip; 0 for a still one."""
    return float(motion_scores(frames).mean())


def least_windowed_motion(scores: NDArray[np.float64], window: int = WINDOW) -> float:
    """The least mean of the motion scores over `window` frames to either side: the paper's bar for quality is 0.5."""
    return min(float(scores[max(i - window, 0) : i + window + 1].mean()) for i in range(len(scores)))


@dataclass(frozen=True)
class Consistency:
    """How alike the frames of a clip are, and how much moves in it; neither says anything without the other."""

    frames: float
    """Mean cosine of the features of neighboring frames."""
    image: float
    """Mean cosine of every later frame's features with the first frame's."""
    motion: float

    @property
    def is_still(self) -> bool:
        """Whether the consistency is that of a clip in which nothing moves."""
        return self.motion < STILL


def consistency(features: Tensor, frames: NDArray[np.uint8] | Tensor) -> Consistency:
    """Consistency of a clip from features (T, D) of its frames, of any encoder, and its pixels uint8 (T, H, W, 3)."""
    if features.ndim != 2 or len(features) != len(frames):
        raise InputError(f"{len(frames)} frames came with features of shape {tuple(features.shape)}. "
                         "Pass one row of features a frame.")
    motion = motion_score(frames)
    unit = features.float() / features.float().norm(dim=-1, keepdim=True).clamp(min=1e-12)
    neighbors = (unit[1:] * unit[:-1]).sum(-1).mean()
    return Consistency(float(neighbors), float((unit[1:] * unit[:1]).sum(-1).mean()), motion)


def _encode(file: io.BytesIO, frames: Sequence[NDArray[np.uint8]]) -> None:
    """One group of pictures, each predicted from the one before it alone: a vector to an older one would be longer."""
    options = {"crf": "18", "preset": "medium", "g": str(len(frames)), "bf": "0", "refs": "1", "sc_threshold": "0",
               "threads": "1"}
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=8, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _energies(file: io.BytesIO) -> list[float]:
    with av.open(file, "r") as container:
        stream = container.streams.video[0]
        stream.codec_context.options = {"flags2": "+export_mvs"}
        area = stream.width * stream.height
        energies = []
        for frame in container.decode(stream):
            vectors = frame.side_data.get("MOTION_VECTORS")
            energies.append(_energy(vectors.to_ndarray()) / area if vectors is not None else 0.0)
    return energies


def _energy(vectors: NDArray[np.void]) -> float:
    """Squared pixels times area, summed over the blocks of a frame."""
    scale = vectors["motion_scale"].astype(float)
    squared = (vectors["motion_x"] / scale) ** 2 + (vectors["motion_y"] / scale) ** 2
    return float((squared * vectors["w"].astype(float) * vectors["h"]).sum())
