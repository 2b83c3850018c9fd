"""A world small enough for exact answers: captions over mixtures of Gaussians, their denoiser and log p in closed form.

K captions, each an equal mixture of 6 Gaussians in R^64 whose means are shared but for a small shift a caption. Every
estimator can be held against Bayes here, and a claim about estimators against the estimate of a perfect model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diorama.diffusion.parametrisations import Denoised
from diorama.diffusion.schedules import Schedule
from diorama.diffusion.text import Condition

CAPTIONS, COMPONENTS, VALUES = 4, 6, 64
SHIFT = 0.09
DEVIATIONS = (0.20, 0.45)
NOTHING = CAPTIONS
"""The number of the empty caption: the mixture over all captions."""


@dataclass(frozen=True)
class Mixture:
    """means (K + 1, J, 64) float64 and deviations (J,) of every caption's components; the last row is no caption."""

    means: Tensor
    deviations: Tensor
    schedule: Schedule

    def draw(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Clean values (count, 64) and the caption of each (count,)."""
        generator = torch.Generator().manual_seed(seed)
        captions = torch.randint(0, CAPTIONS, (count,), generator=generator)
        return self.draw_of(captions, generator), captions

    def draw_of(self, captions: Tensor, generator: torch.Generator) -> Tensor:
        """A clean value of each caption, (B, 64)."""
        component = torch.randint(0, COMPONENTS, (len(captions),), generator=generator)
        noise = torch.randn(len(captions), VALUES, generator=generator, dtype=torch.float64)
        return self.means[captions, component] + self.deviations[component].unsqueeze(1) * noise

    def log_density(self, clean: Tensor, caption: int) -> Tensor:
        """log p(clean | caption), (B,); `NOTHING` is log p(clean)."""
        zero, one = torch.zeros(len(clean), 1, dtype=torch.float64), torch.ones(len(clean), 1, dtype=torch.float64)
        return self._logits(clean, one, zero, torch.full((len(clean),), caption)).logsumexp(1)

    def conditions(self, captions: Tensor) -> Condition:
        """Caption numbers (R,) as a condition that `denoise` reads."""
        return Condition(captions.double().view(-1, 1, 1))

    def denoise(self, x: Tensor, index: Tensor, condition: Condition) -> Denoised:
        """The exact posterior mean of the clean value, for x (B, 64)."""
        captions = condition.tokens[:, 0, 0].long()
        signal, noise = self.schedule.at(index, x.double())
        total = signal**2 * self._spread(captions) ** 2 + noise**2
        shares = self._logits(x, signal, noise, captions).softmax(1)  # (B, J)
        gain = signal * self._spread(captions) ** 2 / total
        pulled = (shares * (1 - signal * gain)).unsqueeze(1) @ self._of(captions)
        clean = (shares * gain).sum(1, keepdim=True) * x + pulled.squeeze(1)
        return Denoised(clean, (x - signal * clean) / noise)

    def _of(self, captions: Tensor) -> Tensor:
        return self._table()[0][captions]

    def _spread(self, captions: Tensor) -> Tensor:
        return self._table()[1][captions]

    def _table(self) -> tuple[Tensor, Tensor]:
        """Means (K + 1, K J, 64) and deviations, a caption's own components repeated to as many as no caption has."""
        own = self.means.repeat(1, CAPTIONS, 1)
        everything = self.means.flatten(0, 1).unsqueeze(0)
        return torch.cat([own, everything]), self.deviations.repeat(CAPTIONS).expand(CAPTIONS + 1, -1)

    def _logits(self, x: Tensor, signal: Tensor, noise: Tensor, captions: Tensor) -> Tensor:
        """log of weight times density of each component at a time, (B, K J)."""
        means, deviations = self._of(captions), self._spread(captions)
        total = signal**2 * deviations**2 + noise**2
        across = (means @ x.double().unsqueeze(2)).squeeze(2)
        squared = x.double().pow(2).sum(1, keepdim=True) - 2 * signal * across + signal**2 * means.pow(2).sum(2)
        count = torch.tensor(float(means.shape[1]), dtype=torch.float64)
        return -0.5 * (squared / total + VALUES * torch.log(2 * torch.pi * total)) - count.log()


def mixture(schedule: Schedule, seed: int = 0) -> Mixture:
    """A mixture with means drawn from `seed`."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(COMPONENTS, VALUES, generator=generator, dtype=torch.float64)
    shifts = torch.randn(CAPTIONS, 1, VALUES, generator=generator, dtype=torch.float64) * SHIFT
    return Mixture(shared + shifts, torch.linspace(*DEVIATIONS, COMPONENTS, dtype=torch.float64), schedule)


def perturbed(world: Mixture, size: float, seed: int) -> Mixture:
    """A model that has learned slightly wrong means."""
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.randn(world.means.shape, generator=generator, dtype=torch.float64) * size
    return Mixture(world.means + wrong, world.deviations, world.schedule)
