"""What the stages learn from: pools of the world made ready for the towers, and LLaVA-style files on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diorama.media.resizing import resize_shortest
from diorama.systems.video_llava.config import VideoLlavaConfig
from diorama.systems.video_llava.processing import preprocess_rendered
from diorama.world.pool import Pool
from diorama.world.scene import Scene


@dataclass(frozen=True)
class Prepared:
    """A pool at the tower's size: uint8 (N, T, 3, S, S), resized once exactly as `preprocess_image` resizes."""

    scenes: list[Scene]
    visible: np.ndarray
    family: np.ndarray
    small: np.ndarray
    config: VideoLlavaConfig

    def __len__(self) -> int:
        return len(self.scenes)

    @property
    def is_video(self) -> bool:
        return self.small.shape[1] > 1

    def pixels(self, rows: Sequence[int]) -> Tensor:
        """Normalised pixels of some rows: (B, 3, S, S) for images, (B, 3, T, S, S) for clips."""
        ready = preprocess_rendered(torch.from_numpy(self.small[list(rows)]), self.config)
        return ready.transpose(1, 2) if self.is_video else ready[:, 0]


def prepare(pool: Pool, config: VideoLlavaConfig) -> Prepared:
    """Bring a pool to the tower's size."""
    size = config.tower.image_size
    count, frames = pool.pixels.shape[:2]
    small = np.empty((count, frames, 3, size, size), np.uint8)
    for i in range(count):
        for t in range(frames):
            frame = np.ascontiguousarray(pool.pixels[i, t].transpose(1, 2, 0))
            if size != frame.shape[0]:
                frame = np.asarray(resize_shortest(Image.fromarray(frame), size, interpolation="bicubic"))
            small[i, t] = frame.transpose(2, 0, 1)
    return Prepared(pool.scenes, pool.visible, pool.family, small, config)
