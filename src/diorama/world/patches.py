"""Which object each patch of a picture shows, from the world's exact masks."""

from __future__ import annotations

import numpy as np

GROUND, OUTLINE = -1, -2
"""Owners of patches that show no object, and of those that show too little of one to be called its."""
OWNED_SHARE, EMPTY_SHARE = 0.12, 0.02
"""A patch shows an object that covers this share of it, and the ground if all objects cover less than the second."""


def patch_owners(mask: np.ndarray, side: int) -> np.ndarray:
    """The object in each of side x side patches, int8 (..., side, side), from masks (..., S, S) of object numbers.

    S must be a multiple of side.
    """
    leading, patch = mask.shape[:-2], mask.shape[-1] // side
    tiles = mask.reshape(*leading, side, patch, side, patch).swapaxes(-3, -2)
    tiles = tiles.reshape(*leading, side, side, patch * patch)
    shares = np.stack([(tiles == k).mean(-1) for k in range(5)], axis=-1)
    found = np.where(shares.max(-1) >= OWNED_SHARE, shares.argmax(-1), OUTLINE)
    return np.where(shares.sum(-1) <= EMPTY_SHARE, GROUND, found).astype(np.int8)
