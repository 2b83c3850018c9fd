"""How rare words are, so that 'file' matters less than 'invoice_77' when texts are compared."""

import zlib
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import numpy.typing as npt

BUCKETS = 4096


@lru_cache(maxsize=65_536)
def bucket(word: str) -> int:
    """The bucket of a word: CRC-32 modulo 2^12, the same on every machine."""
    return zlib.crc32(word.encode("utf-8", "replace")) % BUCKETS


class Rarity:
    """How rare each word bucket is in the training tasks and outputs: log((n + 1) / (count + 1)), 1.0 at the rarest."""

    def __init__(self, weights: npt.NDArray[np.float32]):
        self.weights = weights
        self._list = weights.tolist()

    @classmethod
    def flat(cls) -> "Rarity":
        return cls(np.ones(BUCKETS, np.float32))

    @classmethod
    def of(cls, texts: Iterable[frozenset[str]]) -> "Rarity":
        counts, total = np.zeros(BUCKETS), 0
        for text in texts:
            total += 1
            counts[list({bucket(word) for word in text})] += 1
        weights = np.log((total + 1) / (counts + 1))
        return cls((0.05 + 0.95 * weights / max(1e-9, weights.max())).astype(np.float32))

    def mass(self, chosen: Iterable[str]) -> float:
        return sum(self._list[bucket(word)] for word in chosen)
