"""Pieces of a diffusion model's likelihood: noisy states of a clean value, Gaussian steps, and terms to add up.

Shapes: B clean values, T times of a schedule (cleanest first), then any axes; D values in one clean value. Terms are
sums over D, in nats, in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diorama.diffusion.parametrisations import Denoised
from diorama.diffusion.schedules import Schedule, shaped
from diorama.errors import InputError

Variance = Literal["large", "small"]
"""Of a reverse step: beta of the forward step, or the posterior's (Ho et al. 2020, section 3.2)."""
Weights = Literal["uniform", "vlb", "exponential"]
Loss = Literal["l2", "l1", "huber", "log"]


@dataclass(frozen=True)
class States:
    """x at every time of a schedule for B clean values: `states` x_t, `before` x_{t-1}, `eps` the noise in x_t.

    Each (B, T, ...); before[:, 0] is the clean value itself.
    """

    states: Tensor
    before: Tensor
    eps: Tensor


def independent_states(clean: Tensor, schedule: Schedule, noise: Tensor) -> States:
    """Every time with a noise of its own, (B, T, ...). The states lie on no common path, so `before` is the clean
    value's only at the first time and is of no use at others."""
    states = _mixed(clean, schedule, noise)
    return States(states, _shifted(states, clean), noise)


def line_states(clean: Tensor, schedule: Schedule, noise: Tensor) -> States:
    """One noise (B, ...) for all times: the states of SelfEval's algorithm 1."""
    repeated = noise.unsqueeze(1).expand(-1, len(schedule), *noise.shape[1:])
    states = _mixed(clean, schedule, repeated)
    return States(states, _shifted(states, clean), repeated)


def path_states(clean: Tensor, schedule: Schedule, noise: Tensor) -> States:
    """An ancestral path x_1, x_2, ... of the forward process with steps driven by `noise` (B, T, ...).

    SelfEval (arXiv 2311.10708), equations 7 to 9.
    """
    before_signal, before_noise = steps_before(schedule)
    kept = schedule.signal / before_signal
    added = (schedule.noise**2 - kept**2 * before_noise**2).clamp(min=0).sqrt()
    states, x = [], clean
    for t in range(len(schedule)):
        x = shaped(kept[t], x) * x + shaped(added[t], x) * noise[:, t]
        states.append(x)
    path = torch.stack(states, 1)
    signal, spread = _rows(schedule.signal, clean), _rows(schedule.noise, clean)
    return States(path, _shifted(path, clean), (path - signal * clean.unsqueeze(1)) / spread)


def steps_before(schedule: Schedule) -> tuple[Tensor, Tensor]:
    """Signal and noise one time earlier, (T,) each; the clean value has signal 1 and noise 0."""
    return (torch.cat([torch.ones(1, dtype=torch.float64), schedule.signal[:-1]]),
            torch.cat([torch.zeros(1, dtype=torch.float64), schedule.noise[:-1]]))


@dataclass(frozen=True)
class ReverseSteps:
    """The Gaussian step from each time to the one before: mean = of_x * x + of_clean * clean; (T,) each."""

    of_x: Tensor
    of_clean: Tensor
    variance: Tensor

    def mean(self, x: Tensor, said: Denoised, index: Tensor) -> Tensor:
        """The mean of the step for rows x (B, ...) at `index` (B,)."""
        return shaped(self.of_x[index], x) * x + shaped(self.of_clean[index], x) * said.clean


def reverse_steps(schedule: Schedule, variance: Variance = "large") -> ReverseSteps:
    """The steps of a (respaced) schedule, recomputed from the times it has.

    "large" is beta of the step, also at the last step to the clean value; "small" is 0 there, so that step has no
    density: `first_step` says so.
    """
    signal, noise = steps_before(schedule)
    kept = schedule.signal / signal
    added = schedule.noise**2 - kept**2 * noise**2
    if variance == "small":
        spread = added * noise**2 / schedule.noise**2
    else:
        length = signal**2 + noise**2
        spread = length * (1 - schedule.alphas_cumprod * length / signal**2)
    return ReverseSteps(kept * noise**2 / schedule.noise**2, signal * added / schedule.noise**2, spread)


def first_step(variance: Variance) -> int:
    """The first time whose step has a density: 0, or 1 with the small variance, which is 0 at the last step."""
    return 1 if variance == "small" else 0


def log_density(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """log N(x; mean, variance I) of each row, (B,) float64; variance (B,). x, mean (B, ...)."""
    count = x[0].numel()
    spread = variance.to(x.device, torch.float64)
    squared = (x - mean).double().pow(2).flatten(1).sum(1)
    return -0.5 * (count * torch.log(2 * math.pi * spread) + squared / spread)


def prior_log_density(last: Tensor, schedule: Schedule) -> Tensor:
    """log p(x_T) of each row of x_T (B, ...): it has no caption, but it differs from picture to picture."""
    spread = schedule.noise[-1] ** 2 + schedule.signal[-1] ** 2
    return log_density(last, torch.zeros_like(last), spread.expand(len(last)))


def residual(eps: Tensor, said: Tensor, loss: Loss = "l2") -> Tensor:
    """How far the predicted noise is from the noise, summed over D, (B,) float64.

    log: D / 2 times the log of the mean squared error, which is minus the log likelihood of the gap under a Gaussian of
    the width that fits it best. Where the noise cannot be known (near clean values) and where it is all but known (near
    pure noise), a difference of captions then counts in proportion to what is left unexplained.
    """
    gap = (eps - said).double().flatten(1)
    if loss == "l2":
        return gap.pow(2).sum(1)
    if loss == "l1":
        return gap.abs().sum(1)
    if loss == "huber":
        return torch.where(gap.abs() < 1, 0.5 * gap.pow(2), gap.abs() - 0.5).sum(1)
    if loss == "log":
        return 0.5 * gap.shape[1] * gap.pow(2).mean(1).clamp(min=1e-300).log()
    raise InputError(f"The loss {loss!r} is unknown. Pass l2, l1, huber or log.")


def residual_weights(schedule: Schedule, weights: Weights = "uniform") -> Tensor:
    """What a squared residual of the noise counts at each time, (T,).

    uniform: 1 (Diffusion Classifier, arXiv 2303.16203). vlb: beta^2 / (2 s^2 a (1 - abar)) with s^2 = beta, which makes
    the sum a bound on the likelihood. exponential: exp(-7 t) on the clean value's error, t in 0 .. 1 (arXiv 2303.15233,
    section 3).
    """
    if weights == "uniform":
        return torch.ones(len(schedule), dtype=torch.float64)
    if weights == "vlb":
        steps = reverse_steps(schedule, "large")
        return (steps.of_clean * schedule.noise / schedule.signal.clamp(min=1e-12)) ** 2 / (2 * steps.variance)
    if weights == "exponential":
        time = schedule.times / schedule.times.max().clamp(min=1)
        return torch.exp(-7 * time) / schedule.snr.clamp(min=1e-12)
    raise InputError(f"The weights {weights!r} are unknown. Pass uniform, vlb or exponential.")


def balanced_order(count: int) -> list[int]:
    """0 .. count - 1 so that every beginning of the list is spread over all of it (van der Corput's order)."""
    bits = max(count - 1, 1).bit_length()
    reversed_bits = [int(format(number, f"0{bits}b")[::-1], 2) for number in range(2**bits)]
    return [number for number in reversed_bits if number < count]


def _mixed(clean: Tensor, schedule: Schedule, noise: Tensor) -> Tensor:
    return _rows(schedule.signal, clean) * clean.unsqueeze(1) + _rows(schedule.noise, clean) * noise


def _rows(values: Tensor, clean: Tensor) -> Tensor:
    """One number a time, shaped (1, T, 1, ...) to multiply (B, T, ...)."""
    dtype = torch.float64 if clean.dtype == torch.float64 else torch.float32
    return values.view(1, -1, *[1] * (clean.ndim - 1)).to(clean.device, dtype)


def _shifted(states: Tensor, clean: Tensor) -> Tensor:
    return torch.cat([clean.unsqueeze(1), states[:, :-1]], 1)
