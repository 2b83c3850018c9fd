"""Captions looked at once: keys and values that attention makes of text depend on neither noise, time nor frame.

    with text_once(network) as memory:
        told = memory.of(condition)          # numbers its captions
        predict(network, x, times, told.rows([0, 0, 1]))

Each layer over text works on a caption when it first meets it, and afterwards repeats its answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers.models.attention_processor import Attention, AttnAddedKVProcessor, AttnAddedKVProcessor2_0
from torch import Tensor, nn

from diorama.diffusion.text import Memory

PROJECTIONS = ("caption_projection", "encoder_hid_proj")
"""Where diffusers' networks bring text to their own width: PixArt's, and the U-Nets of DeepFloyd IF."""


class Remembered(nn.Module):
    """A layer over text that works once on each caption of a memory."""

    def __init__(self, layer: nn.Module, memory: Memory):
        super().__init__()
        self.layer = layer
        self.memory = memory
        self.batch = 0
        self.known = torch.zeros(0, dtype=torch.bool)
        self.answers: Tensor | None = None

    def forward(self, text: Tensor) -> Tensor:
        """text (B, L, D) of the captions that the memory says are asked -> (B, L, C)."""
        asked = self.memory.asked
        if asked is None:
            return self.layer(text)
        if self.batch != self.memory.batch:
            self.batch = self.memory.batch
            self.known = torch.zeros(self.memory.count, dtype=torch.bool)
            self.answers = None
        new = ~self.known[asked]
        if new.any():
            numbers, rows = _first_rows(asked, new)
            answer = self.layer(text[rows.to(text.device)])
            if self.answers is None:
                self.answers = answer.new_empty(self.memory.count, *answer.shape[1:])
            self.answers[numbers.to(answer.device)] = answer
            self.known[numbers] = True
        assert self.answers is not None
        return self.answers[asked.to(self.answers.device)]


def _first_rows(asked: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """The captions that are new, and a row of each."""
    rows = new.nonzero().flatten()
    numbers, where = torch.unique(asked[rows], return_inverse=True)
    first = rows.new_full((len(numbers),), len(asked)).scatter_reduce(0, where, rows, "amin")
    return numbers, first


@contextmanager
def text_once(network: nn.Module) -> Iterator[Memory]:
    """Inside, the layers of a diffusers network over text work once on each caption that the memory numbers.

    Conditions that no memory numbered are looked at as ever. Meant for passes without gradients.
    """
    memory = Memory()
    places: list[tuple[nn.Module, str]] = [(network, name) for name in PROJECTIONS]
    for module in network.modules():
        if isinstance(module, Attention) and module.is_cross_attention:
            places += [(module, "to_k"), (module, "to_v")]
        if isinstance(module, Attention) and isinstance(module.processor, (AttnAddedKVProcessor,
                                                                           AttnAddedKVProcessor2_0)):
            places += [(module, "add_k_proj"), (module, "add_v_proj")]
    places = [(module, name) for module, name in places if isinstance(getattr(module, name, None), nn.Module)]
    layers = [getattr(module, name) for module, name in places]
    try:
        for (module, name), layer in zip(places, layers, strict=True):
            setattr(module, name, Remembered(layer, memory))
        yield memory
    finally:
        for (module, name), layer in zip(places, layers, strict=True):
            setattr(module, name, layer)
