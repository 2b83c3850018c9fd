"""The text encoder of Stable Diffusion 3: two CLIP towers side by side, T5's tokens after theirs, and a pooled vector.

Esser et al. 2024 (arXiv 2403.03206), section 4; T5 may be left out, and zeros stand in its place.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection, PreTrainedTokenizerFast, T5EncoderModel

from diorama.diffusion.text import Condition, TextEncoder, TextLimits
from diorama.errors import InputError

T5_LENGTH = 256
"""Tokens of T5 in diffusers' pipeline; the CLIP towers read 77."""


class StackedText(TextEncoder):
    """Three towers as one encoder. tower: their ModuleList, T5 last if there is one; width: the network's for text."""

    def __init__(self, clips: Sequence[CLIPTextModelWithProjection], tokenizers: Sequence[PreTrainedTokenizerFast],
                 t5: T5EncoderModel | None, width: int):
        length = min(int(tokenizers[0].model_max_length), 77)
        super().__init__(nn.ModuleList([*clips, *([t5] if t5 is not None else [])]), tokenizers[0],
                         TextLimits(length, to_full=True, masked=False, tower_masked=False))
        self.clips = list(clips)
        self.t5 = t5
        self.tokenizers = list(tokenizers)
        self.width = width

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> Condition:
        """Tokens (B, 77 + 256, D) and pooled vectors (B, P), float32; captions of the same tokens are encoded once."""
        ids = [self._ids(captions, number) for number in range(len(self.tokenizers))]
        rows, where = torch.unique(torch.cat(ids, 1), dim=0, return_inverse=True)
        parts = rows.split([one.shape[1] for one in ids], 1)
        device = next(self.tower.parameters()).device
        states, pooled = [], []
        for clip, own in zip(self.clips, parts, strict=False):
            said = clip(input_ids=own.to(device), output_hidden_states=True)
            states.append(said.hidden_states[-2])
            pooled.append(said.text_embeds)
        beside = torch.cat(states, -1).float()
        beside = nn.functional.pad(beside, (0, self.width - beside.shape[-1]))
        after: Tensor = beside.new_zeros(len(rows), T5_LENGTH, self.width)
        if self.t5 is not None:
            after = self.t5(input_ids=parts[2].to(device)).last_hidden_state.float()
        return Condition(torch.cat([beside, after], 1), pooled=torch.cat(pooled, -1).float()).rows(where)

    def of_ids(self, ids: Tensor, mask: Tensor) -> Condition:
        """Refused: one row of ids does not hold what three towers read."""
        raise InputError("Stable Diffusion 3's three text towers are not trained here. Examine it or draw with it, or "
                         "train from a model with one text tower.")

    def cut(self, caption: str) -> bool:
        """Whether the caption is longer than the tower that reads most of it."""
        last = len(self.tokenizers) - 1
        return len(self.tokenizers[last](caption)["input_ids"]) > self._length(last)

    def _ids(self, captions: Sequence[str], number: int) -> Tensor:
        encoded = self.tokenizers[number](list(captions), padding="max_length", truncation=True,
                                          max_length=self._length(number), return_tensors="pt")
        return encoded["input_ids"]

    def _length(self, number: int) -> int:
        return T5_LENGTH if number == len(self.clips) else self.limits.length
