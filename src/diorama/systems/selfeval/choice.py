"""From scores to verdicts: which caption fits an item, how sure that is, which captions cannot be told apart.

Shapes: I items, K captions of an item.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from diorama.diffusion.likelihood import balanced_order
from diorama.diffusion.schedules import Schedule
from diorama.diffusion.text import Condition, Memory
from diorama.errors import InputError
from diorama.systems.selfeval.config import Elimination, Estimator, Stages
from diorama.systems.selfeval.elimination import eliminate, in_stages
from diorama.systems.selfeval.estimators import ROWS, Denoise, examine, score, score_calls

Remember = Callable[[], AbstractContextManager[Memory]]
"""Around passes over the same captions: gives the memory that numbers them."""


def nothing_remembered() -> AbstractContextManager[Memory]:
    """A memory that no layer asks."""
    return nullcontext(Memory())


@dataclass(frozen=True)
class Choice:
    """What was found for one item with K captions.

    `margins` are the scores less the best one's (nats; for mse its loss, summed over the values and over as many times
    as are asked at most): 0 for the best, below 0 for others. `best` holds more than one caption only where they are
    encoded identically, so no number of calls could part them. `decided` is False where the calls ran out first.
    """

    margins: tuple[float, ...]
    calls: tuple[int, ...]
    best: tuple[int, ...]
    decided: bool
    ties: tuple[tuple[int, ...], ...] = ()
    """Groups of captions that are encoded identically, the ones that are not best included."""

    def probabilities(self, temperature: float) -> tuple[float, ...]:
        """softmax(margins / temperature) over the captions."""
        weights = [math.exp(margin / temperature) for margin in self.margins]
        return tuple(weight / sum(weights) for weight in weights)

    def credit(self, answer: int) -> float:
        """The share of a right answer: 1, or 1/g where g captions tie for the best and the answer is one of them."""
        return 1 / len(self.best) if answer in self.best else 0.0


@dataclass(frozen=True)
class Grouped:
    """Captions of some items with identical encodings put together."""

    groups: list[list[list[int]]]
    """A list an item: its groups of caption numbers."""
    rows: list[int]
    """Row of the condition that stands for each group, item after item."""
    items: list[int]
    """Item of each of these rows."""
    starts: list[int] = field(default_factory=list)
    """Where each item's groups begin in `rows`."""


def grouped(condition: Condition, counts: Sequence[int]) -> Grouped:
    """The groups of captions, counts[i] of item i, rows of `condition` in that order."""
    found = Grouped([], [], [], [])
    first = 0
    for item, count in enumerate(counts):
        if count < 2:
            raise InputError(f"Item {item} has {count} caption, and a choice needs two. Pass more captions.")
        own = condition.rows(range(first, first + count))
        left, groups = list(range(count)), []
        while left:
            same = [row for row in own.same_as(left[0]) if row in left]
            groups.append(same)
            left = [row for row in left if row not in same]
        found.starts.append(len(found.rows))
        found.groups.append(groups)
        found.rows.extend(first + group[0] for group in groups)
        found.items.extend([item] * len(groups))
        first += count
    return found


def choose(denoise: Denoise, clean: Tensor, schedule: Schedule, condition: Condition, counts: Sequence[int],
           how: Estimator | Elimination | Stages, *, numbers: Sequence[int] | None = None, seed: int = 0,
           rows: int = ROWS, remember: Remember = nothing_remembered) -> list[Choice]:
    """The caption that fits each item of `clean` (I, ...) best; item i has counts[i] captions, in order in `condition`.

    how: an estimator with a fixed number of calls, or elimination or stages on `mse`. numbers: an identity for each
    item, which with `seed` decides its noise. The order of captions and the size of batches change nothing. remember:
    around the calls on some items, such as `TextToImage.text_once`.
    """
    names = list(range(len(clean))) if numbers is None else list(numbers)
    found: list[Choice] = []
    first = 0
    together = max(rows // 2, 1)  # items whose noisy states are held at once, enough to fill batches as captions leave
    for start in range(0, len(clean), together):
        part = slice(start, start + together)
        some = counts[part]
        told = condition.rows(range(first, first + sum(some)))
        first += sum(some)
        groups = grouped(told, some)
        with remember() as memory:
            rest = (denoise, clean[part], schedule, memory.of(told.rows(groups.rows)), groups)
            if isinstance(how, (Elimination, Stages)):
                found += _eliminated(*rest, how, names[part], seed, rows)
            else:
                found += _scored(*rest, how, names[part], seed, rows)
    return found


def _scored(denoise: Denoise, clean: Tensor, schedule: Schedule, told: Condition, groups: Grouped, how: Estimator,
            numbers: Sequence[int], seed: int, rows: int) -> list[Choice]:
    totals = score(denoise, clean, schedule, told, groups.items, how, numbers=numbers, seed=seed, rows=rows).totals
    choices = []
    for item, start in enumerate(groups.starts):
        own = totals[start : start + len(groups.groups[item])]
        margins = (own - own.max()).tolist()
        calls = [how.calls] * len(margins)
        choices.append(_spread(groups.groups[item], margins, calls, int(own.argmax()), decided=True))
    return choices


def _eliminated(denoise: Denoise, clean: Tensor, schedule: Schedule, told: Condition, groups: Grouped,
                how: Elimination | Stages, numbers: Sequence[int], seed: int, rows: int) -> list[Choice]:
    usable = len(schedule) - schedule.has_zero_snr
    most, loss = (how.most, how.loss) if isinstance(how, Elimination) else (how.calls[-1], "l2")
    times = min(most, usable)
    estimator = Estimator(method="mse", times=times, draws=math.ceil(most / times), loss=loss)
    examination = examine(clean, schedule, estimator, numbers=numbers, seed=seed)
    order = [draw * times + time for draw in range(estimator.draws) for time in balanced_order(times)]
    items = torch.tensor(groups.items)
    starts, calls_of = np.array(groups.starts), np.array(order)

    def ask(asked: np.ndarray) -> np.ndarray:
        pairs = torch.from_numpy(np.stack([starts[asked[:, 0]] + asked[:, 1], calls_of[asked[:, 2]]], 1))
        return score_calls(denoise, examination, told, items, pairs, rows=rows).numpy()

    captions = [len(own) for own in groups.groups]
    outcome = eliminate(ask, captions, how) if isinstance(how, Elimination) else in_stages(ask, captions, how)
    differences, calls, decided = outcome.differences() * times, outcome.calls, outcome.decided
    return [_spread(own, differences[item, : len(own)].tolist(), calls[item].tolist(), int(outcome.best[item]),
                    decided=bool(decided[item])) for item, own in enumerate(groups.groups)]


def _spread(groups: list[list[int]], margins: list[float], calls: list[int], best: int, *, decided: bool) -> Choice:
    """A verdict on groups as one on captions. Each caption of a group has the group's score and its calls."""
    count = sum(len(group) for group in groups)
    of = {caption: number for number, group in enumerate(groups) for caption in group}
    return Choice(
        margins=tuple(margins[of[caption]] for caption in range(count)),
        calls=tuple(calls[of[caption]] for caption in range(count)),
        best=tuple(groups[best]), decided=decided,
        ties=tuple(tuple(group) for group in groups if len(group) > 1))
