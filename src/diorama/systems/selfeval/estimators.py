"""Four estimators of log p(picture | caption) behind one function, `score`.

Shapes: I items (pictures or clips), R rows (one caption of one item each), N draws, T times. All captions of an item
meet the same noise, so what they share cancels in their differences; no noise is shared across times in `mse`, where
that never averages out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diorama.diffusion import schedules
from diorama.diffusion.likelihood import (
    States,
    first_step,
    independent_states,
    line_states,
    log_density,
    path_states,
    prior_log_density,
    residual,
    residual_weights,
    reverse_steps,
    steps_before,
)
from diorama.diffusion.parametrisations import Denoised, refuse_nan
from diorama.diffusion.schedules import Schedule
from diorama.diffusion.text import Condition
from diorama.errors import InputError
from diorama.systems.selfeval.config import Estimator

Denoise = Callable[[Tensor, Tensor, Condition], Denoised]
"""x (B, ...), index (B,) into the whole schedule, a condition of B rows -> what is clean and what is noise in x."""
ROWS = 64
"""Rows a network call is given at once."""


@dataclass(frozen=True)
class Scores:
    """`terms` (R, N, T), float64 nats (for mse: minus a weighted squared error); `prior` (I,), the part of a path or
    chain without a caption, which counts only when pictures are compared (for mse: 0)."""

    terms: Tensor
    prior: Tensor

    @property
    def totals(self) -> Tensor:
        """The score of each row, (R,): summed over times, averaged over draws (Jensen's bound, equation 9)."""
        return self.terms.sum(2).mean(1)

    @property
    def bounds(self) -> Tensor:
        """Log of the mean likelihood over draws, (R,): tighter than the mean of logs where draws are many."""
        sums = self.terms.sum(2)
        return sums.logsumexp(1) - torch.log(torch.tensor(float(sums.shape[1]), dtype=torch.float64))


@dataclass(frozen=True)
class Examination:
    """The noisy states of I items for an estimator: everything that captions share, made once."""

    estimator: Estimator
    schedule: Schedule
    """Respaced to the estimator's times."""
    kept: Tensor
    """(T,) indices into the whole schedule, cleanest first."""
    states: States
    """Each (I, N * T, ...)."""
    step_noise: Tensor | None
    """(I, N, T, ...) noise of the reverse chain, the same for all captions; None but for `chain`."""


def kept_times(schedule: Schedule, estimator: Estimator) -> list[int]:
    """The indices that are visited, cleanest first: even, ending at the last time.

    Pure noise says nothing about a squared error of the noise, so `mse` ends before it.
    """
    length = len(schedule) - 1 if estimator.method == "mse" and schedule.has_zero_snr else len(schedule)
    if estimator.times > length:
        raise InputError(f"{estimator.times} times were asked of a schedule that has {length}. Pass at most that many.")
    return schedules.trailing(length, estimator.times)[::-1]


def examine(clean: Tensor, schedule: Schedule, estimator: Estimator, *, numbers: Sequence[int] | None = None,
            seed: int = 0) -> Examination:
    """The noisy states of items `clean` (I, ...).

    numbers: an identity for each item (default 0 .. I - 1); with `seed` it alone decides the item's noise, whatever
    batch it is in.
    """
    refuse_nan(clean, "The picture")
    kept = kept_times(schedule, estimator)
    few = schedule.take(kept)
    times, draws = estimator.times, estimator.draws
    states, chains = [], []
    for row, number in enumerate(range(len(clean)) if numbers is None else numbers):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        for _ in range(draws):
            one = clean[row : row + 1]
            noise = torch.randn(times, *one.shape[1:], generator=generator, dtype=one.dtype).to(one.device)
            if estimator.method == "path":
                states.append(path_states(one, few, noise.unsqueeze(0)))
            elif estimator.method == "mse":
                states.append(independent_states(one, few, noise.unsqueeze(0)))
            else:
                states.append(line_states(one, few, noise[:1]))
            if estimator.method == "chain":
                chains.append(torch.randn(noise.shape, generator=generator, dtype=one.dtype).to(one.device))
    shape = (len(clean), draws * times, *clean.shape[1:])
    joined = States(*(torch.cat([getattr(s, name) for s in states]).reshape(shape)
                      for name in ("states", "before", "eps")))
    chain = torch.stack(chains).reshape(len(clean), draws, times, *clean.shape[1:]) if chains else None
    return Examination(estimator, few, torch.tensor(kept), joined, chain)


def score(denoise: Denoise, clean: Tensor, schedule: Schedule, condition: Condition, items: Sequence[int],
          estimator: Estimator, *, numbers: Sequence[int] | None = None, seed: int = 0, rows: int = ROWS) -> Scores:
    """The terms of every row: caption r of `condition` held against item items[r] of `clean` (I, ...).

    Costs estimator.calls network rows a caption. Raises InputError where a value is NaN, with the time named.
    """
    if len(items) != len(condition):
        raise InputError(f"{len(condition)} captions arrived for {len(items)} rows. Pass one item a caption.")
    examination = examine(clean, schedule, estimator, numbers=numbers, seed=seed)
    where = torch.as_tensor(items, dtype=torch.long)
    prior = torch.zeros(len(clean), dtype=torch.float64)
    if estimator.method != "mse":
        last = examination.states.states.unflatten(1, (estimator.draws, estimator.times))[:, :, -1]
        densities = prior_log_density(last.flatten(0, 1), examination.schedule)
        prior = densities.view(len(clean), -1).mean(1).cpu()
    if estimator.method == "chain":
        terms = _chain_terms(denoise, examination, condition, where, rows)
    else:
        calls = torch.arange(estimator.calls)
        pairs = torch.cartesian_prod(torch.arange(len(where)), calls)
        flat = score_calls(denoise, examination, condition, where, pairs, rows=rows)
        terms = flat.view(len(where), estimator.draws, estimator.times)
    return Scores(terms, prior)


@torch.no_grad()
def score_calls(denoise: Denoise, examination: Examination, condition: Condition, items: Tensor, pairs: Tensor, *,
                rows: int = ROWS) -> Tensor:
    """The terms (P,) of single network calls: pairs (P, 2) of a row and a call number below N * T.

    For the teacher-forced methods only. Captions of an item are given the same state, not equal draws of it.
    """
    estimator, few = examination.estimator, examination.schedule
    steps = reverse_steps(few, estimator.variance)
    weights = residual_weights(few, estimator.weights)
    parts = []
    for some in pairs.split(rows):
        row, call = some[:, 0], some[:, 1]
        time = call % estimator.times
        item = items[row]
        x = examination.states.states[item, call]
        said = denoise(x, examination.kept[time], condition.rows(row))
        if estimator.method == "mse":
            eps = examination.states.eps[item, call]
            terms = -weights[time].to(x.device) * residual(eps, said.eps, estimator.loss)
        else:
            variance = steps.variance[time].clamp(min=1e-300)  # the small one is 0 at the step that is left out
            terms = log_density(examination.states.before[item, call], steps.mean(x, said, time), variance)
            terms = torch.where((time < first_step(estimator.variance)).to(x.device), 0.0, terms)
        _refuse(terms, examination.kept[time])
        parts.append(terms.cpu())
    return torch.cat(parts)


@torch.no_grad()
def _chain_terms(denoise: Denoise, examination: Examination, condition: Condition, items: Tensor, rows: int) -> Tensor:
    """Algorithm 1: the chain is denoised from x_T by its own steps; x_{t-1} is scored under each step's Gaussian."""
    estimator, few = examination.estimator, examination.schedule
    steps = reverse_steps(few, estimator.variance)
    states = examination.states.states.unflatten(1, (estimator.draws, estimator.times))
    before = examination.states.before.unflatten(1, (estimator.draws, estimator.times))
    assert examination.step_noise is not None
    signal, noise = (part.to(states.device, states.dtype) for part in steps_before(few))
    terms = torch.zeros(len(items), estimator.draws, estimator.times, dtype=torch.float64)
    pairs = torch.cartesian_prod(torch.arange(len(items)), torch.arange(estimator.draws))
    for some in pairs.split(rows):
        row, draw = some[:, 0], some[:, 1]
        item, told = items[row], condition.rows(row)
        x = states[item, draw, -1]
        for time in reversed(range(first_step(estimator.variance), estimator.times)):
            index = torch.full((len(row),), time)
            said = denoise(x, examination.kept[index], told)
            mean = steps.mean(x, said, index)
            found = log_density(before[item, draw, time], mean, steps.variance[index])
            _refuse(found, examination.kept[index])
            terms[row, draw, time] = found.cpu()
            if estimator.sampler == "ddim":
                x = signal[time] * said.clean + noise[time] * said.eps
            else:
                spread = steps.variance[time].sqrt().to(x.device, x.dtype)
                x = mean + spread * examination.step_noise[item, draw, time]
    return terms


def _refuse(terms: Tensor, index: Tensor) -> None:
    bad = ~torch.isfinite(terms.cpu())
    if bad.any():
        refuse_nan(terms, f"The estimate at time {int(index[bad][0])} of the schedule")
