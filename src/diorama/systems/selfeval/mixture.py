"""A world small enough for exact answers: captions over mixtures of Gaussians, their denoiser and log p in closed form.

K captions, each an equal mixture of 6 Gaussians in R^64 whose means are shared but for a small shift a caption. Every
estimator can be held against Bayes here, and a claim about estimators against the estimate of a perfect model.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

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
    """means (K, J, 64) and deviations (J,) of every caption's components, float64. Values and x are float64 too."""

    means: Tensor
    deviations: Tensor
    schedule: Schedule

    def perturbed(self, deviation: float, seed: int) -> Mixture:
        """A model that has learned every mean with an error of its own: no longer that of the values it examines."""
        generator = torch.Generator().manual_seed(seed)
        error = torch.randn(self.means.shape, generator=generator, dtype=torch.float64)
        return Mixture(self.means + deviation * error, self.deviations, self.schedule)

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
        signal, noise = self.schedule.at(index, x)
        shares = self._logits(x, signal, noise, captions).softmax(1)  # (B, K J)
        gain = signal * self._all_deviations**2 / (signal**2 * self._all_deviations**2 + noise**2)
        clean = (shares * (1 - signal * gain)) @ self._all_means + (shares * gain).sum(1, keepdim=True) * x
        return Denoised(clean, (x - signal * clean) / noise)

    @cached_property
    def _all_means(self) -> Tensor:
        return self.means.flatten(0, 1)  # (K J, 64)

    @cached_property
    def _all_deviations(self) -> Tensor:
        return self.deviations.repeat(CAPTIONS)

    @cached_property
    def _log_weights(self) -> Tensor:
        """log of each component's weight given each caption, (K + 1, K J)."""
        own = torch.eye(CAPTIONS, dtype=torch.float64).repeat_interleave(COMPONENTS, 1) / COMPONENTS
        return torch.cat([own, torch.full((1, CAPTIONS * COMPONENTS), 1 / (CAPTIONS * COMPONENTS))]).log()

    def _logits(self, x: Tensor, signal: Tensor, noise: Tensor, captions: Tensor) -> Tensor:
        """log of weight times density of each component at a time, (B, K J)."""
        total = signal**2 * self._all_deviations**2 + noise**2
        squared = x.pow(2).sum(1, keepdim=True) - 2 * signal * (x @ self._all_means.T)
        squared = squared + signal**2 * self._all_means.pow(2).sum(1)
        return self._log_weights[captions] - 0.5 * (squared / total + VALUES * torch.log(2 * torch.pi * total))


def mixture(schedule: Schedule, seed: int = 0) -> Mixture:
    """A mixture with means drawn from `seed`."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(COMPONENTS, VALUES, generator=generator, dtype=torch.float64)
    shifts = torch.randn(CAPTIONS, 1, VALUES, generator=generator, dtype=torch.float64) * SHIFT
    return Mixture(shared + shifts, torch.linspace(*DEVIATIONS, COMPONENTS, dtype=torch.float64), schedule)
