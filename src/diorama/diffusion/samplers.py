"""Samplers, a function each: from noise to a clean value through the times of a schedule.

`denoise(x, index)` says for rows x (B, ...) at index (B,), int64, into the schedule what is clean and what is noise
in them. `steps` are the indices visited, falling, such as `schedules.trailing(len(schedule), 25)`; every sampler
takes the true next index for its step and ends with the clean value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from diorama.diffusion.parametrisations import Denoised, refuse_nan
from diorama.diffusion.schedules import Index, Schedule, shaped
from diorama.errors import InputError

Denoise = Callable[[Tensor, Tensor], Denoised]
OnStep = Callable[[int, Denoised], None]
"""Hears of each step: its number from 0, and what the network said there."""


def sample_ddim(
    denoise: Denoise, x: Tensor, schedule: Schedule, steps: Sequence[int], *, eta: float = 0.0,
    generator: torch.Generator | None = None, on_step: OnStep | None = None,
) -> Tensor:
    """DDIM (Song et al. 2021, equation 12) for x (B, ...) of pure noise; eta 1 has DDPM's noise.

    On a flow schedule with eta 0 it is Euler's method along the straight lines.
    """
    for number, (now, after) in enumerate(pairs(steps, schedule)):
        said = _ask(denoise, x, now, number)
        if on_step:
            on_step(number, said)
        if after is None:
            return said.clean
        signal, noise = schedule.at(after, x)
        if eta:
            spread = eta * posterior(schedule, now, after, x)[2].sqrt()
            x = signal * said.clean + (noise**2 - spread**2).clamp(min=0).sqrt() * said.eps
            x = x + spread * _like(x, generator)
        else:
            x = signal * said.clean + noise * said.eps
    raise AssertionError("pairs always ends with a clean step")


def sample_ddpm(
    denoise: Denoise, x: Tensor, schedule: Schedule, steps: Sequence[int], *,
    variance: Literal["small", "large"] = "small", generator: torch.Generator | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Ancestral sampling (Ho et al. 2020, algorithm 2), with the posterior's variance or the forward step's."""
    for number, (now, after) in enumerate(pairs(steps, schedule)):
        said = _ask(denoise, x, now, number)
        if on_step:
            on_step(number, said)
        if after is None:
            return said.clean
        of_x, of_clean, small = posterior(schedule, now, after, x)
        spread = small if variance == "small" else forward_variance(schedule, now, after, x)
        x = of_x * x + of_clean * said.clean + spread.sqrt() * _like(x, generator)
    raise AssertionError("pairs always ends with a clean step")


def sample_dpm_solver(
    denoise: Denoise, x: Tensor, schedule: Schedule, steps: Sequence[int], *, on_step: OnStep | None = None,
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2). Steps beside pure noise or a clean value are of first order."""
    before: tuple[Tensor, float] | None = None
    for number, (now, after) in enumerate(pairs(steps, schedule)):
        said = _ask(denoise, x, now, number)
        if on_step:
            on_step(number, said)
        if after is None:
            return said.clean
        here, there = _half_log_snr(schedule, now), _half_log_snr(schedule, after)
        clean = said.clean
        if before is not None and here > -torch.inf and before[1] > -torch.inf:
            ratio = (here - before[1]) / (there - here)
            clean = (1 + 1 / (2 * ratio)) * said.clean - before[0] / (2 * ratio)
        before = (said.clean, here)
        signal, noise = schedule.at(after, x)
        own_signal, own_noise = schedule.at(now, x)
        # x + the same for the noise left in it, which keeps its ratio to the noise of the time.
        x = (noise / own_noise) * x + (signal - own_signal * noise / own_noise) * clean
    raise AssertionError("pairs always ends with a clean step")


def sample_euler(
    denoise: Denoise, x: Tensor, schedule: Schedule, steps: Sequence[int], *, on_step: OnStep | None = None,
) -> Tensor:
    """Euler's method along the velocity eps - clean of a flow (Liu et al. 2022); InputError for a bent schedule."""
    if not schedule.is_flow:
        raise InputError("Euler steps follow the straight lines of a flow, and this schedule is bent. "
                         "Use sample_ddim, or schedules.flow().")
    for number, (now, after) in enumerate(pairs(steps, schedule)):
        said = _ask(denoise, x, now, number)
        if on_step:
            on_step(number, said)
        target = 0.0 if after is None else schedule.noise[after].item()
        x = x + (target - schedule.noise[now].item()) * (said.eps - said.clean)
    return x


# ---- the pieces of a step ----------------------------------------------------------------------------------------


def pairs(steps: Sequence[int], schedule: Schedule) -> Iterator[tuple[int, int | None]]:
    """Each visited index with the one after it, None standing for the clean value; InputError if they do not fall."""
    inside = bool(steps) and steps[-1] >= 0 and steps[0] < len(schedule)
    if not inside or any(after >= now for now, after in pairwise(steps)):
        raise InputError(f"The steps {list(steps)[:8]} do not fall within 0 .. {len(schedule) - 1}. "
                         "Pass indices from noisy to clean, such as schedules.trailing(len(schedule), 25).")
    yield from zip(steps, [*steps[1:], None], strict=True)


def posterior(schedule: Schedule, now: Index, after: Index, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q(x_after | x_now, clean): the factors of x_now and of clean in its mean, and its variance.

    Ho et al. 2020, equations 6 and 7, on any schedule (Kingma et al. 2021, appendix A). `now` and `after` are one
    index each, or one a row of `like` (B, ...), which the results are shaped to multiply.
    """
    signal_now, noise_now = _rows(schedule, now)
    signal_after, noise_after = _rows(schedule, after)
    kept = signal_now / signal_after
    added = noise_now**2 - kept**2 * noise_after**2
    parts = (kept * noise_after**2, signal_after * added, added * noise_after**2)
    of_x, of_clean, variance = (shaped(part / noise_now**2, like) for part in parts)
    return of_x, of_clean, variance


def forward_variance(schedule: Schedule, now: Index, after: Index, like: Tensor) -> Tensor:
    """Variance of x_after given x_now for clean values of variance 1: beta of the step on a discrete schedule."""
    signal_after, noise_after = _rows(schedule, after)
    share = schedule.alphas_cumprod
    now_share, after_share = share[torch.as_tensor(now)], share[torch.as_tensor(after)]
    return shaped((signal_after**2 + noise_after**2) * (1 - now_share / after_share), like)


def _rows(schedule: Schedule, index: Index) -> tuple[Tensor, Tensor]:
    where = torch.as_tensor(index, device="cpu")
    return schedule.signal[where], schedule.noise[where]


def _ask(denoise: Denoise, x: Tensor, index: int, number: int) -> Denoised:
    said = denoise(x, torch.full((len(x),), index, dtype=torch.long))
    refuse_nan(said.clean, f"Step {number} of the sampler (time {index})")
    return said


def _half_log_snr(schedule: Schedule, index: int) -> float:
    return 0.5 * schedule.snr[index].log().item()


def _like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(x.shape, generator=generator, device=generator.device if generator else x.device,
                       dtype=x.dtype).to(x.device)
