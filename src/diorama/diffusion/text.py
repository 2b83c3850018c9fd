"""Captions to what a network attends to: CLIP's or T5's text tower, or a bag of words without any order.

Shapes: B captions, L tokens, D channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from diorama.errors import InputError
from diorama.language.word_tokenizer import unknown_words


class Memory:
    """Numbers of captions for the layers of `text_once.text_once`: how many there are, and which are asked just now."""

    def __init__(self) -> None:
        self.count = 0
        self.batch = 0
        """Counts up with each condition that is numbered."""
        self.asked: Tensor | None = None

    def of(self, condition: Condition) -> Condition:
        """The condition with its captions numbered; those that were numbered before are forgotten."""
        self.count = len(condition)
        self.batch += 1
        return replace(condition, memory=self, numbers=torch.arange(self.count))


@dataclass(frozen=True)
class Condition:
    """Encoded captions: tokens (B, L, D) and, where padding is hidden from the network, a mask (B, L) of 1 and 0.

    pooled (B, P): one vector a caption beside its tokens, for networks that take it (Stable Diffusion 3). memory and
    numbers (B,): which caption each row is, inside `text_once`.
    """

    tokens: Tensor
    mask: Tensor | None = None
    pooled: Tensor | None = None
    memory: Memory | None = None
    numbers: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def rows(self, index: Tensor | Sequence[int]) -> Condition:
        """The captions at `index`, which may repeat."""
        where = torch.as_tensor(index, dtype=torch.long, device=self.tokens.device)
        return Condition(self.tokens[where], None if self.mask is None else self.mask[where],
                         None if self.pooled is None else self.pooled[where], self.memory,
                         None if self.numbers is None else self.numbers[where.cpu()])

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Inside, the memory knows that these captions are before the network."""
        if self.memory is None:
            yield
            return
        self.memory.asked = self.numbers
        try:
            yield
        finally:
            self.memory.asked = None

    def same_as(self, other: int) -> list[int]:
        """The rows that are encoded exactly as row `other` is."""
        tokens = self.tokens if self.mask is None else self.tokens * self.mask.unsqueeze(-1)
        same = (tokens == tokens[other]).flatten(1).all(1)
        if self.mask is not None:
            same &= (self.mask == self.mask[other]).all(1)
        if self.pooled is not None:
            same &= (self.pooled == self.pooled[other]).all(1)
        return same.nonzero().flatten().tolist()


def joined(conditions: Sequence[Condition]) -> Condition:
    """Several conditions as one; shorter ones are padded with hidden tokens. InputError if padding cannot be hidden."""
    length = max(condition.tokens.shape[1] for condition in conditions)
    tokens, masks = [], []
    for condition in conditions:
        missing = length - condition.tokens.shape[1]
        if missing and condition.mask is None:
            raise InputError("Captions of different lengths arrived without a mask, so padding would be read as words. "
                             "Encode them together.")
        tokens.append(nn.functional.pad(condition.tokens, (0, 0, 0, missing)))
        masks.append(condition.mask if condition.mask is None else nn.functional.pad(condition.mask, (0, missing)))
    pooled = [condition.pooled for condition in conditions if condition.pooled is not None]
    return Condition(torch.cat(tokens), None if masks[0] is None else torch.cat([m for m in masks if m is not None]),
                     torch.cat(pooled) if pooled else None)


@dataclass(frozen=True)
class TextLimits:
    """How captions are cut and padded for a text encoder."""

    length: int
    """Tokens a caption has at most, its begin and end included; longer ones lose their end."""
    to_full: bool = False
    """Pad to `length` always, as Stable Diffusion was trained, instead of to the longest caption."""
    masked: bool = True
    """Whether the network is told which tokens are padding."""
    tower_masked: bool = True
    """Whether the text tower itself is told; CLIP's towers in Stable Diffusion were not."""


class BagOfWords(nn.Module):
    """The mean of word embeddings, projected: captions of the same words are the same to the last bit.

    Stands for a text tower that is blind to order. ids (B, L) -> (B, 1, D).
    """

    def __init__(self, vocabulary: int, width: int, pad_id: int):
        super().__init__()
        self.pad_id = pad_id
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=pad_id)
        self.project = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        ordered = torch.where(mask.bool(), ids, self.pad_id).sort(1).values  # equal sums need an equal order
        words = self.embedding(ordered).sum(1) / mask.sum(1, keepdim=True)
        return self.project(words).unsqueeze(1)


class TextEncoder:
    """A text tower with its tokenizer.

    tower: transformers' CLIPTextModel or T5EncoderModel, or a `BagOfWords`.
    """

    def __init__(self, tower: nn.Module, tokenizer: PreTrainedTokenizerFast, limits: TextLimits):
        self.tower = tower
        self.tokenizer = tokenizer
        self.limits = limits

    def ids(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids (B, L) and their mask (B, L) for some captions."""
        if not captions:
            raise InputError("There are no captions to encode. Pass at least one; the empty caption is \"\".")
        encoded = self.tokenizer(
            list(captions), padding="max_length" if self.limits.to_full else "longest", truncation=True,
            max_length=self.limits.length, return_tensors="pt")
        return encoded["input_ids"], encoded["attention_mask"]

    def of_ids(self, ids: Tensor, mask: Tensor) -> Condition:
        """The condition of token ids (B, L); gradients flow."""
        if isinstance(self.tower, BagOfWords):
            return Condition(self.tower(ids, mask), mask.new_ones(len(mask), 1) if self.limits.masked else None)
        states = self.tower(input_ids=ids, attention_mask=mask if self.limits.tower_masked else None).last_hidden_state
        return Condition(states, mask if self.limits.masked else None)

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> Condition:
        """Captions as the network is to see them, float32. Captions that the tower cannot tell apart (cut to the same
        tokens, or the same bag of words) are encoded once and so are equal to the last bit."""
        device = next(self.tower.parameters()).device
        ids, mask = self.ids(captions)
        if isinstance(self.tower, BagOfWords):
            ids = torch.where(mask.bool(), ids, self.tower.pad_id).sort(1, descending=True).values
            mask = (ids != self.tower.pad_id).to(mask.dtype)
        rows, where = torch.unique(torch.stack([ids, mask], 1), dim=0, return_inverse=True)
        condition = self.of_ids(rows[:, 0].to(device), rows[:, 1].to(device))
        return Condition(condition.tokens.float(), condition.mask).rows(where)

    def cut(self, caption: str) -> bool:
        """Whether the caption is longer than the encoder reads."""
        return len(self.tokenizer(caption)["input_ids"]) > self.limits.length

    def unknown_words(self, caption: str) -> list[str]:
        """The words of a caption that a word tokenizer lacks; empty for tokenizers that spell."""
        return unknown_words(self.tokenizer, caption)
