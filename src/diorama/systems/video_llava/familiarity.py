"""How far a picture lies from what a checkpoint was trained on, measured on the features of its own image tower.

The mean and covariance of the patch tokens' average over world renders give a Mahalanobis distance; its threshold is
set on real photographs against held-out renders, and distances are reported in units of that threshold.
`diorama video-llava evaluate --familiarity FOLDER` counts both kinds of error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from diorama.checkpoints import write_tensors
from diorama.systems.video_llava.model import ImageTower

FAMILIARITY = "familiarity.safetensors"
SHRINKAGE = 0.02
"""Share of the mean variance added to every direction, so that directions the renders never use count, but not
without bound."""


@dataclass(frozen=True)
class Familiarity:
    """mean (2D,), whitening (2D, 2D) and threshold () of the distance over a tower's token statistics."""

    mean: Tensor
    whitening: Tensor
    threshold: Tensor

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Familiarity:
        return cls(tensors["mean"].float(), tensors["whitening"].float(), tensors["threshold"].float())

    def write(self, path: Path) -> None:
        write_tensors(path, {"mean": self.mean, "whitening": self.whitening, "threshold": self.threshold})

    @classmethod
    def fit(cls, statistics: Tensor, threshold: float = 1.0) -> Familiarity:
        """From the token statistics (N, 2D) of pictures that are familiar."""
        mean = statistics.double().mean(0)
        centered = statistics.double() - mean
        covariance = centered.T @ centered / (len(statistics) - 1)
        covariance += SHRINKAGE * covariance.diagonal().mean() * torch.eye(len(mean), dtype=torch.float64)
        values, vectors = torch.linalg.eigh(covariance)
        whitening = vectors @ torch.diag(values.rsqrt()) @ vectors.T
        return cls(mean.float(), whitening.float(), torch.tensor(threshold))

    def distance(self, statistics: Tensor) -> Tensor:
        """Root mean square of the whitened statistics (N, 2D): about 1 for familiar pictures, (N,)."""
        return ((statistics - self.mean) @ self.whitening).square().mean(-1).sqrt()

    def strangeness(self, tower: ImageTower, pixels: Tensor) -> float:
        """Distance in thresholds of one medium's frames (T, 3, S, S): the median over its frames."""
        found = self.distance(token_statistics(tower, pixels).cpu()) / self.threshold
        return float(found.median())


@torch.no_grad()
def token_statistics(tower: ImageTower, pixels: Tensor) -> Tensor:
    """Mean and deviation over the patch tokens of hidden_states[-2], (B, 2D), of images (B, 3, S, S)."""
    tokens = tower.hidden_state(pixels, -2)[:, 1:].float()
    return torch.cat([tokens.mean(1), tokens.std(1)], dim=-1)


def threshold_between(familiar: Tensor, strange: Tensor) -> float:
    """The distance that separates two samples of distances best: least sum of the two error rates."""
    candidates = torch.cat([familiar, strange]).unique()
    middles = (candidates[1:] + candidates[:-1]) / 2
    errors = torch.stack([(familiar > m).float().mean() + (strange <= m).float().mean() for m in middles])
    best = (errors == errors.min()).nonzero().flatten()
    return float(middles[best[len(best) // 2]])


def error_rates(familiar: Iterable[float], strange: Iterable[float], threshold: float = 1.0) -> tuple[float, float]:
    """(share of familiar pictures called strange, share of strange pictures called familiar)."""
    a, b = torch.tensor(list(familiar)), torch.tensor(list(strange))
    return float((a > threshold).float().mean()), float((b <= threshold).float().mean())
