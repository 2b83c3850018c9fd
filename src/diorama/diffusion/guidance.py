"""Guidance by any chain of conditions, nothing -> image -> image and text, with only the branches that count."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diorama.diffusion.parametrisations import Denoised
from diorama.errors import InputError


def branch_weights(scales: Sequence[float]) -> list[float]:
    """How much each branch counts in X(0) + w_1 (X(1) - X(0)) + w_2 (X(2) - X(1)) + ...; they sum to 1.

    Branch 0 has no condition and branch k the first k of them. One scale is classifier-free guidance (Ho & Salimans
    2022), two are Emu Video's equation 1. A branch of weight 0 need not be computed: scales (1, 1) take one network
    call, (1, w) and (w, w) two.
    """
    if not scales:
        raise InputError("Guidance needs at least one scale. Pass, for example, (7.5,), or (1.0,) for none.")
    edges = [1.0, *scales, 0.0]
    return [edges[k] - edges[k + 1] for k in range(len(scales) + 1)]


def combine(answers: Sequence[Tensor | Denoised], weights: Sequence[float]) -> Tensor | Denoised:
    """The weighted sum of branches' answers, whatever they predict: weights that sum to 1 commute with conversions."""
    if isinstance(answers[0], Denoised):
        cleans, noises = zip(*answers, strict=True)
        return Denoised(_sum(cleans, weights), _sum(noises, weights))
    return _sum(answers, weights)  # type: ignore[arg-type]


def _sum(answers: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    if len(answers) == 1:
        return answers[0]
    return torch.stack([weight * answer for weight, answer in zip(weights, answers, strict=True)]).sum(0)


def rescaled(guided: Tensor, conditional: Tensor, share: float) -> Tensor:
    """Guided answers with, to the share given, the standard deviation of the conditional ones (2305.08891, 3.4)."""
    axes = tuple(range(1, guided.ndim))
    same = guided * (conditional.std(axes, keepdim=True) / guided.std(axes, keepdim=True))
    return share * same + (1 - share) * guided
