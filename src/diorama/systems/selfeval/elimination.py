"""Successive elimination: captions stop being scored once a paired test holds them worse than the best one.

Clark & Jaini (arXiv 2303.15233), algorithm 1, over many items at once: every round asks for one call more of each
caption that is still in, so that batches stay full as captions leave.

Shapes: I items, K captions an item at most, M calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diorama.systems.selfeval.config import Elimination, Stages

Floats = NDArray[np.float64]
Ask = Callable[[NDArray[np.int64]], Floats]
"""Rows (P, 3) of item, caption and call number -> the score of each, (P,)."""


@dataclass(frozen=True)
class Outcome:
    """What elimination found. `scores` (I, K, M) holds NaN where a caption was not asked for."""

    scores: Floats
    alive: NDArray[np.bool_]
    """(I, K): captions never dropped; the best of each item is among them."""
    best: NDArray[np.int64]
    """(I,) the caption with the highest mean."""

    @property
    def calls(self) -> NDArray[np.int64]:
        """Calls of each caption, (I, K)."""
        return (~np.isnan(self.scores)).sum(2)

    @property
    def decided(self) -> NDArray[np.bool_]:
        """(I,) whether the best one is the only one left."""
        return self.alive.sum(1) == 1

    def differences(self) -> Floats:
        """Mean score of each caption minus the best one's over the same calls, (I, K); -inf for absent captions."""
        gaps = self.scores - self.scores[np.arange(len(self.best)), self.best][:, None]
        counts = (~np.isnan(gaps)).sum(2)
        sums = np.nansum(gaps, axis=2)
        return np.where(counts > 0, sums / np.maximum(counts, 1), -np.inf)


def eliminate(ask: Ask, captions: Sequence[int], rule: Elimination) -> Outcome:
    """Score the captions of every item (captions[i] of item i) until one is left or `rule.most` calls are spent.

    A caption once dropped is never asked for again and never returned.
    """
    items, most = len(captions), max(captions)
    scores = np.full((items, most, rule.most), np.nan)
    alive = np.arange(most)[None, :] < np.asarray(captions)[:, None]
    done = 0
    while done < rule.most:
        until = rule.least if done == 0 else done + 1
        item, caption = np.nonzero(alive & (alive.sum(1) > 1)[:, None] if done else alive)
        if not len(item):
            break
        calls = np.arange(done, until)
        rows = np.stack([np.repeat(item, len(calls)), np.repeat(caption, len(calls)), np.tile(calls, len(item))], 1)
        scores[rows[:, 0], rows[:, 1], rows[:, 2]] = ask(rows)
        done = until
        alive &= ~worse(scores[:, :, :done], alive, rule)
    means = np.where(alive, np.nanmean(np.where(alive[:, :, None], scores, 0.0), axis=2), -np.inf)
    return Outcome(scores, alive, means.argmax(1))


def in_stages(ask: Ask, captions: Sequence[int], rule: Stages) -> Outcome:
    """Score the captions of every item, and after each stage keep the best few of each by their mean."""
    items, most = len(captions), max(captions)
    scores = np.full((items, most, rule.calls[-1]), np.nan)
    alive = np.arange(most)[None, :] < np.asarray(captions)[:, None]
    done = 0
    for until, keep in zip(rule.calls, rule.keep, strict=True):
        item, caption = np.nonzero(alive)
        calls = np.arange(done, until)
        rows = np.stack([np.repeat(item, len(calls)), np.repeat(caption, len(calls)), np.tile(calls, len(item))], 1)
        scores[rows[:, 0], rows[:, 1], rows[:, 2]] = ask(rows)
        done = until
        means = np.where(alive, np.where(alive[:, :, None], scores[:, :, :done], 0.0).mean(2), -np.inf)
        places = (-means).argsort(1, kind="stable").argsort(1)
        alive &= places < keep
    return Outcome(scores, alive, np.where(alive, means, -np.inf).argmax(1))


def worse(scores: Floats, alive: NDArray[np.bool_], rule: Elimination) -> NDArray[np.bool_]:
    """Which captions a paired test holds worse than the best mean so far, (I, K), given (I, K, M) scores."""
    count = scores.shape[2]
    items = np.arange(len(scores))
    means = np.where(alive, np.where(alive[:, :, None], scores, 0.0).mean(2), -np.inf)
    best = means.argmax(1)
    gaps = scores[items, best][:, None] - scores
    asked = alive & ~np.isnan(gaps).any(2)
    gaps = np.where(asked[:, :, None], gaps, 0.0)
    deviation = gaps.std(2, ddof=1)
    mean = gaps.mean(2)
    # Equal scores in every call are a tie, whatever their spread; a constant gap is certain.
    statistic = np.divide(mean * math.sqrt(count), deviation, out=np.where(mean > 0, np.inf, 0.0), where=deviation > 0)
    found = tail(statistic, count - 1 if rule.test == "t" else None)
    dropped = asked & (found < rule.threshold) & (mean > 0)
    dropped[items, best] = False
    return dropped


def tail(statistic: Floats, degrees: int | None) -> Floats:
    """p of a normal statistic, one-sided (degrees None), or of Student's t, two-sided as Clark & Jaini take it.

    In closed form for whole degrees of freedom: Abramowitz & Stegun 26.7.3 and 26.7.4.
    """
    if degrees is None:
        return np.vectorize(lambda z: 0.5 * math.erfc(z / math.sqrt(2)), otypes=[np.float64])(statistic)
    size = np.abs(statistic)
    angle = np.arctan(size / math.sqrt(degrees))
    cosine, sine = np.cos(angle), np.sin(angle)
    if degrees % 2:
        term, total = cosine.copy(), np.zeros_like(cosine)
        for k in range(1, degrees // 2 + 1):
            total += term
            term = term * cosine**2 * (2 * k) / (2 * k + 1)
        inside = 2 / math.pi * (angle + sine * total)
    else:
        term, total = np.ones_like(cosine), np.zeros_like(cosine)
        for k in range(degrees // 2):
            total += term
            term = term * cosine**2 * (2 * k + 1) / (2 * k + 2)
        inside = sine * total
    return np.clip(1 - inside, 0.0, 1.0)
