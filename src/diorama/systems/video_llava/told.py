"""The world told patch by patch in words: what the language model reads before it ever sees a tower's feature.

An aligned tower says in each patch token what the patch shows. Here the words for that stand in the token's place:
the sum of the word embeddings of the object's size, color, shape, of where the patch lies and, in clips, of what the
object does at that moment and when, and a vector for the patch and the frame. The language model learns the world's
questions from it without any vision, as Vicuna brings its knowledge to the 7B model; the projector then learns to bring
the tower's tokens to the same place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from diorama.systems.video_llava.align import DOINGS, STILL, doing_index
from diorama.systems.video_llava.config import VideoLlavaConfig
from diorama.systems.video_llava.data import Prepared

SPREAD = 0.02
"""Standard deviation of the vectors of patches and frames at the start: that of LLaMA's embeddings."""


SIDES = (("left",), ("left",), ("left", "middle"), ("middle", "right"), ("right",), ("right",))
"""Words for the sixths of the image's width: an object in the third sixth may be left or in the middle, as the whole of
its patches says."""
DEPTHS = (("back",), ("front",))
"""Words for the halves of the image's height: what lies higher on the ground is further back."""

WHENS = ("first", "last")
"""Words for the halves of a clip, said of objects that do something then."""


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

    names: (N, 5, 3) ids of each object's size, color and shape. doings: (N, T, 5, 3) ids of what it does in each frame,
    and when, padded with -1; None for images. wheres: (P, V) counted words of where each patch lies.
    """

    pool: Prepared
    vocabulary: int
    names: np.ndarray
    doings: np.ndarray | None
    wheres: np.ndarray

    def of(self, row: int) -> Tensor:
        """The words of a scene: (P, W) for an image, (T, 1 + P, W) for a clip, whose CLS has nothing but its frame."""
        config = self.pool.config
        vocabulary, patches = self.vocabulary, config.tower.num_patches
        owners = self.pool.owners[row]  # (T, P)
        frames = len(owners)
        words = np.zeros((frames, 1 + patches, vocabulary + patches + config.tower.frames), np.uint8)
        frame, patch = np.nonzero(owners >= 0)
        thing = owners[frame, patch]
        said = [*self.names[row, thing].T]
        if self.doings is not None:
            said += [*self.doings[row, frame, thing].T]
        for ids in said:
            known = ids >= 0
            words[frame[known], 1 + patch[known], ids[known]] += 1
        here = np.nonzero(owners >= 0)
        words[here[0], 1 + here[1], : vocabulary] += self.wheres[here[1]]
        every = np.arange(patches)
        words[:, 1 + every, vocabulary + every] = 1
        if self.doings is None:
            return torch.from_numpy(words[0, 1:])
        words[np.arange(frames), :, vocabulary + patches + np.arange(frames)] = 1
        return torch.from_numpy(words)


def tell(pool: Prepared, tokenizer: PreTrainedTokenizerFast) -> Told:
    """Put a pool into words. The pool is at most as long as the tower's temporal embedding."""
    def ids(text: str) -> list[int]:
        found = tokenizer.convert_tokens_to_ids(text.split())
        assert isinstance(found, list)
        return found

    frames = pool.owners.shape[1]
    names = np.zeros((len(pool), 5, 3), np.int16)
    doings = None if pool.facts.kind == "image" else np.full((len(pool), frames, 5, 3), -1, np.int16)
    verbs = [ids(verb)[:2] for verb in DOINGS]
    whens = ids(" ".join(WHENS))
    for row, scene in enumerate(pool.facts.scenes):
        spacing = scene.duration / max(frames - 1, 1)
        for k, thing in enumerate(scene.objects):
            names[row, k] = ids(thing.name)
            for t in range(frames if doings is not None else 0):
                doing = doing_index(scene, k, t * spacing, spacing)
                said = verbs[doing] if doing == STILL else [*verbs[doing], whens[t * len(WHENS) // frames]]
                doings[row, t, k, : len(said)] = said  # type: ignore[index]
    return Told(pool, len(tokenizer), names, doings, where_words(pool.config, tokenizer))


def where_words(config: VideoLlavaConfig, tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """The words of where each patch lies, counted, uint8 (P, V)."""
    side = config.tower.image_size // config.tower.patch_size
    counts = np.zeros((side, side, len(tokenizer)), np.uint8)
    for place in range(side):
        counts[:, place, tokenizer.convert_tokens_to_ids([*SIDES[place * len(SIDES) // side]])] += 1
        counts[place, :, tokenizer.convert_tokens_to_ids([*DEPTHS[place * len(DEPTHS) // side]])] += 1
    return counts.reshape(side * side, -1)
