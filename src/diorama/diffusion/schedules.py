"""Noise schedules as plain values, and which of their times a sampler visits.

A schedule is two rows of numbers, whatever the family: x_t = signal_t * clean + noise_t * eps. Discrete diffusion has
signal^2 + noise^2 = 1, rectified flow has signal + noise = 1; samplers and likelihoods are written on the two rows.

Shapes: N times, index 0 is the cleanest; B rows, then any axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diorama.errors import InputError

Index = Tensor | int
"""One index into a schedule, or an int64 tensor (B,) of one a row."""


@dataclass(frozen=True)
class Schedule:
    """How much of the clean value and of the noise is in x at each of N times, cleanest first; float64 (N,) each.

    `times` is what the network is told at each index: 0 .. N - 1 for discrete diffusion, 1000 * noise for flows.
    Raises InputError for rows that are no schedule: not finite, below zero, or with a ratio that does not fall.
    """

    signal: Tensor
    noise: Tensor
    times: Tensor

    def __post_init__(self) -> None:
        rows = (self.signal, self.noise, self.times)
        if not all(row.ndim == 1 and len(row) == len(self.signal) and len(row) for row in rows):
            raise InputError(f"A schedule needs three rows of one length; got {[tuple(r.shape) for r in rows]}. "
                             "Pass one number a time in each.")
        for name in ("signal", "noise", "times"):
            object.__setattr__(self, name, getattr(self, name).detach().to("cpu", torch.float64))
        share = self.alphas_cumprod
        if not (torch.isfinite(torch.cat([self.signal, self.noise, self.times])).all() and (self.signal >= 0).all()
                and (self.noise > 0).all() and (share.diff() < 0).all()):
            raise InputError("A schedule must lose signal from each time to the next, with noise above zero and every "
                             "number finite. Pass its times from clean to noisy, without the clean end.")

    def __len__(self) -> int:
        return len(self.signal)

    @property
    def alphas_cumprod(self) -> Tensor:
        """The share of the signal in the variance of x for clean values of variance 1; (N,)."""
        return self.signal**2 / (self.signal**2 + self.noise**2)

    @property
    def snr(self) -> Tensor:
        """Signal-to-noise ratio (signal / noise)^2; (N,)."""
        return (self.signal / self.noise) ** 2

    @property
    def has_zero_snr(self) -> bool:
        """Whether the last time is pure noise."""
        return bool(self.signal[-1] == 0)

    @property
    def is_flow(self) -> bool:
        """Whether clean values and noise lie on a straight line: signal + noise = 1 everywhere."""
        return bool(torch.allclose(self.signal + self.noise, torch.ones_like(self.noise), atol=1e-6))

    def at(self, index: Index, like: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise at `index` (one number, or one a row of `like`), shaped to multiply `like` (B, ...)."""
        where = torch.as_tensor(index, device="cpu")
        return shaped(self.signal[where], like), shaped(self.noise[where], like)

    def take(self, indices: Sequence[int] | Tensor) -> Schedule:
        """Only the times at `indices`, given from clean to noisy: a respaced schedule (Nichol & Dhariwal 2021, 4)."""
        chosen = torch.as_tensor(indices, dtype=torch.long)
        return Schedule(self.signal[chosen], self.noise[chosen], self.times[chosen])


def shaped(values: Tensor, like: Tensor) -> Tensor:
    """Numbers, one or one a row, shaped to multiply `like` (B, ...), on its device, in float32 or its float64."""
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    return values.reshape(-1, *[1] * (like.ndim - 1)).to(like.device, dtype)


# ---- families ----------------------------------------------------------------------------------------------------


def from_alphas_cumprod(alphas_cumprod: Tensor) -> Schedule:
    """A discrete schedule from abar (N,), told to the network as 0 .. N - 1."""
    share = alphas_cumprod.double()
    return Schedule(share.sqrt(), (1 - share).sqrt(), torch.arange(len(share)))


def linear(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Schedule:
    """Betas linear from `first` to `last` (Ho et al. 2020, section 4)."""
    return from_alphas_cumprod((1 - torch.linspace(first, last, steps, dtype=torch.float64)).cumprod(0))


def scaled_linear(steps: int = 1000, first: float = 8.5e-4, last: float = 1.2e-2) -> Schedule:
    """Betas linear in their square root, as in latent diffusion (Rombach et al. 2022); Emu Video calls it "quad"."""
    roots = torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64)
    return from_alphas_cumprod((1 - roots**2).cumprod(0))


def cosine(steps: int = 1000, largest: float = 0.999) -> Schedule:
    """abar falls as cos^2 of the time (Nichol & Dhariwal 2021, section 3.2), no beta above `largest`."""
    time = torch.arange(steps + 1, dtype=torch.float64) / steps
    share = torch.cos((time + 0.008) / 1.008 * torch.pi / 2) ** 2
    betas = (1 - share[1:] / share[:-1]).clamp(max=largest)
    return from_alphas_cumprod((1 - betas).cumprod(0))


def flow(steps: int = 1000, shift: float = 1.0) -> Schedule:
    """Rectified flow (Liu et al. 2022): noise t = 1/N .. 1, signal 1 - t.

    `shift` s moves the times towards noise, t -> s t / (1 + (s - 1) t) (Esser et al. 2024, section 5.3.2).
    """
    if not shift > 0:
        raise InputError(f"A flow cannot be shifted by {shift}. Pass a factor above 0, where 1 changes nothing.")
    even = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    noise = shift * even / (1 + (shift - 1) * even)
    return Schedule(1 - noise, noise, 1000 * noise)


def zero_terminal_snr(schedule: Schedule) -> Schedule:
    """The schedule rescaled so that its last time is pure noise and its first is as before.

    Lin et al. 2023 (arXiv 2305.08891), algorithm 1: with s = sqrt(abar), s' = (s - s_T) s_0 / (s_0 - s_T).
    Such a schedule cannot be used with the target "eps"; `parametrisations.check_target` says so.
    """
    root = schedule.alphas_cumprod.sqrt()
    rescaled = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    rescaled[0], rescaled[-1] = root[0], 0.0
    return Schedule(rescaled, (1 - rescaled**2).sqrt(), schedule.times)


# ---- which times a sampler visits --------------------------------------------------------------------------------


def trailing(length: int, steps: int) -> list[int]:
    """`steps` even indices from length - 1 downwards: the spacing that starts at the last time (2305.08891, 3.3)."""
    _check_steps(length, steps)
    return [round(length - k * length / steps) - 1 for k in range(steps)]


def dense_near_noise(length: int, steps: int) -> list[int]:
    """`steps` indices (length - 1)(1 - u^2) for even u in [0, 1): dense near pure noise, where contrast is decided."""
    _check_steps(length, steps)
    wanted = [round((length - 1) * (1 - (k / steps) ** 2)) for k in range(steps)]
    for k in range(1, steps):
        wanted[k] = min(wanted[k], wanted[k - 1] - 1)
    for k in reversed(range(steps)):
        wanted[k] = max(wanted[k], steps - 1 - k)
    return wanted


def evenly(length: int, steps: int) -> list[int]:
    """`steps` even indices with both ends, rising: the times of a respaced schedule."""
    _check_steps(length, steps)
    return [length - 1] if steps == 1 else [round(k * (length - 1) / (steps - 1)) for k in range(steps)]


def _check_steps(length: int, steps: int) -> None:
    if not 1 <= steps <= length:
        raise InputError(f"{steps} steps cannot be taken on a schedule of {length} times. Pass 1 to {length}.")
