"""How much contrast a schedule and its steps keep, in closed form: why the last time must be pure noise.

The mean of a clip over M redundant values is a Gaussian mode whose signal-to-noise ratio at the last time is M times
the schedule's. Training sees that leak, sampling starts without it, and what comes out is darker or brighter than it
should be by a factor that is computed here: an exact denoiser and a real sampler, no network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diorama.diffusion import schedules
from diorama.diffusion.parametrisations import Denoised
from diorama.diffusion.samplers import Denoise, sample_ddim
from diorama.diffusion.schedules import Schedule

MEAN_VARIANCE = 0.25
"""Variance of the mean level of a picture in -1 .. 1: worlds from black to white."""


def exact_denoiser(schedule: Schedule, variance: float) -> Denoise:
    """The best possible denoiser of values that are Gaussian with mean 0 and this variance."""
    def denoise(x: Tensor, index: Tensor) -> Denoised:
        signal, noise = schedule.at(index, x)
        clean = variance * signal / (signal**2 * variance + noise**2) * x
        return Denoised(clean, (x - signal * clean) / noise)

    return denoise


def contrast_kept(schedule: Schedule, steps: Sequence[int], redundancy: int) -> float:
    """The deviation of a sampled mode over the true one, 1 being right: the mean of `redundancy` values by DDIM.

    Everything is linear, so one sample of size 1 tells the deviation of all.
    """
    variance = MEAN_VARIANCE * redundancy
    drawn = sample_ddim(exact_denoiser(schedule, variance), torch.ones(1, 1, dtype=torch.float64), schedule, steps)
    return abs(float(drawn)) / math.sqrt(variance)


def limit_kept(schedule: Schedule, redundancy: int) -> float:
    """The same for infinitely many steps (the probability-flow ODE): 1 / sqrt(abar_T s^2 + 1 - abar_T)."""
    share = float(schedule.alphas_cumprod[-1])
    return 1 / math.sqrt(share * MEAN_VARIANCE * redundancy + 1 - share)


@dataclass(frozen=True)
class Row:
    """One number of values averaged, and the contrast kept under each schedule and way of stepping."""

    redundancy: int
    stock: dict[int, float]
    """By even steps, on the stock schedule."""
    zero: dict[int, float]
    """By even steps, with zero terminal SNR."""
    dense: float
    """25 steps dense near pure noise, with zero terminal SNR."""
    limit: float
    """Of the stock schedule, whatever the number of steps."""


def table(redundancies: Sequence[int] = (1024, 8192, 32768), steps: Sequence[int] = (25, 50, 100, 250)) -> list[Row]:
    """Contrast kept for one frame of 32 x 32, eight of them, and eight of 64 x 64."""
    stock = schedules.scaled_linear()
    zero = schedules.zero_terminal_snr(stock)
    return [Row(
        redundancy,
        stock={n: contrast_kept(stock, schedules.trailing(len(stock), n), redundancy) for n in steps},
        zero={n: contrast_kept(zero, schedules.trailing(len(zero), n), redundancy) for n in steps},
        dense=contrast_kept(zero, schedules.dense_near_noise(len(zero), 25), redundancy),
        limit=limit_kept(stock, redundancy),
    ) for redundancy in redundancies]
