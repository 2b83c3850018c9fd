"""The world told patch by patch in words: what the language model reads before it ever sees a tower's feature.

An aligned tower says in each patch token what the patch shows. Here the words for that stand in the token's place:
the sum of the word embeddings of the object's size, color, shape, of where it is and, in clips, of what it does at that
moment and when (`naming.py`), and a vector for the patch and the frame. The language model learns the world's
questions from it without any vision, as Vicuna brings its knowledge to the 7B model; the projector then learns to bring
the tower's tokens to the same place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from diorama.systems.video_llava.config import VideoLlavaConfig
from diorama.systems.video_llava.data import Prepared
from diorama.systems.video_llava.naming import WORDS_OF, words_of

SPREAD = 0.02
"""Standard deviation of the vectors of patches and frames at the start: that of LLaMA's embeddings."""


class Teller(nn.Module):
    """Words in patches (..., W), counted, to tokens for the language model (..., D).

    W = vocabulary, then patches, then frames. The word embeddings are the language model's own.
    """

    def __init__(self, config: VideoLlavaConfig):
        super().__init__()
        self.vocabulary = config.language.vocab_size
        count = config.tower.num_patches + config.tower.frames
        self.places = nn.Parameter(torch.randn(count, config.language.hidden_size) * SPREAD)

    def forward(self, words: Tensor, embeddings: Tensor) -> Tensor:
        """embeddings: (V, D), the weight of the language model's `embed_tokens`."""
        words = words.to(embeddings.dtype)
        return words[..., : self.vocabulary] @ embeddings + words[..., self.vocabulary :] @ self.places


@dataclass(frozen=True)
class Told:
    """A pool in words: for each scene the counted words of every patch.

    said: (N, T, 5, W) ids of the words for each object in each frame, padded with -1.
    """

    pool: Prepared
    vocabulary: int
    said: np.ndarray

    def of(self, row: int) -> Tensor:
        """The words of a scene: (P, W) for an image, (T, 1 + P, W) for a clip, whose CLS has nothing but its frame."""
        tower = self.pool.config.tower
        vocabulary, patches = self.vocabulary, tower.num_patches
        owners = self.pool.owners[row]  # (T, P)
        frames = len(owners)
        words = np.zeros((frames, 1 + patches, vocabulary + patches + tower.frames), np.uint8)
        frame, patch = np.nonzero(owners >= 0)
        for ids in self.said[row, frame, owners[frame, patch]].T:
            known = ids >= 0
            words[frame[known], 1 + patch[known], ids[known]] += 1
        every = np.arange(patches)
        words[:, 1 + every, vocabulary + every] = 1
        if self.pool.facts.kind == "image":
            return torch.from_numpy(words[0, 1:])
        words[np.arange(frames), :, vocabulary + patches + np.arange(frames)] = 1
        return torch.from_numpy(words)


def tell(pool: Prepared, tokenizer: PreTrainedTokenizerFast) -> Told:
    """Put a pool into words. The pool is at most as long as the tower's temporal embedding."""
    tables = [_ids(words, tokenizer) for words in WORDS_OF.values()]
    frames = pool.owners.shape[1]
    said = []
    for scene in pool.facts.scenes:
        names = words_of(scene, frames)
        said.append(np.concatenate([table[names[..., place]] for place, table in enumerate(tables)], axis=-1))
    return Told(pool, len(tokenizer), np.stack(said))


def _ids(words: tuple[str, ...], tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """Ids of each word of an attribute, two at most, int16 (1 + words, 2) padded with -1; the last row, at UNSAID, is
    of no word."""
    ids = np.full((len(words) + 1, 2), -1, np.int16)
    for row, word in enumerate(words):
        found = tokenizer.convert_tokens_to_ids(word.split()[:2])
        assert isinstance(found, list)
        ids[row, : len(found)] = found
    return ids
