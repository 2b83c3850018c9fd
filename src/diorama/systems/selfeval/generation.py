"""The other half of the exam: pictures that a generator draws, read by the world's oracle."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from diorama.diffusion.text_to_image import TextToImage
from diorama.world.oracle import read_images
from diorama.world.phrases import shows
from diorama.world.readings import ImageReading

DRAWN_AT_ONCE = 50
Read = Callable[[Tensor], list[ImageReading]]


def at_first_sight(pixels: Tensor) -> list[ImageReading]:
    """The oracle's reading of pictures (B, 3, S, S) without its slow second look."""
    return read_images(pixels, closely=False)


def generation_credit(model: TextToImage, captions: Sequence[str], *, guidance: float = 5.0, steps: int = 25,
                      seed: int = 0, read: Read | None = None) -> np.ndarray:
    """1 for each caption whose drawn picture shows what it says, as the oracle reads it, else 0; (N,).

    A reading that is unsure counts as 0: a picture that leaves doubt has not shown it. `read` replaces the world's
    oracle. Raises CheckpointError where no oracle is shipped.
    """
    credit = []
    for start in range(0, len(captions), DRAWN_AT_ONCE):
        some = list(captions[start : start + DRAWN_AT_ONCE])
        pixels = model.generate(some, guidance=guidance, steps=steps, seed=seed + start).cpu()
        readings = (read or at_first_sight)(pixels)
        credit += [float(shows(reading, caption) is True) for reading, caption in zip(readings, some, strict=True)]
    return np.array(credit)
