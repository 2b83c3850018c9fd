"""Numbers with intervals: percentile and cluster bootstrap, Wilson proportions, paired differences, AUROC, Spearman.

Pure NumPy. Every function is deterministic in its seed.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from diorama.errors import InputError

MAX_DRAWS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Interval:
    """An estimate, the interval it lies in, and how many independent observations it rests on."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}] (n={self.n})"


def bootstrap(
    values: ArrayLike,
    *,
    groups: Sequence[Any] | None = None,
    samples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """The mean of `values` with a percentile bootstrap interval (Efron 1979).

    With `groups`, one label a value, whole groups are drawn (the cluster bootstrap: questions about the same clip are
    not independent), and n counts groups. Booleans count as 0 and 1. Raises InputError for no values or NaN.
    """
    array = _clean(values, "values")
    if groups is None:
        means = _resampled(array, np.ones(len(array)), samples, seed)
        return _interval(array.mean(), means, len(array), level)
    sums, sizes = _by_group(array, groups)
    means = _resampled(sums, sizes, samples, seed)
    return _interval(array.mean(), means, len(sums), level)


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    groups: Sequence[Any] | None = None,
    samples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """The mean of a - b over the same items, with a bootstrap over items (or over `groups` of items)."""
    first, second = _clean(a, "a"), _clean(b, "b")
    if len(first) != len(second):
        raise InputError(
            f"There are {len(first)} values in a and {len(second)} in b, which cannot be paired. "
            "Pass one value an item to each, in the same order."
        )
    return bootstrap(first - second, groups=groups, samples=samples, seed=seed, level=level)


def bootstrap_statistic(
    statistic: Callable[..., float], *columns: ArrayLike, samples: int = 2000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Any statistic of columns of equal length, such as `auroc` or `spearman`, with a bootstrap over their rows.

    Draws for which the statistic is not defined (one class only) are left out of the interval.
    """
    arrays = [_clean(column, "a column") for column in columns]
    n = len(arrays[0])
    if any(len(array) != n for array in arrays):
        raise InputError(f"The columns have {[len(array) for array in arrays]} rows. Pass columns of equal length.")
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(samples):
        rows = generator.integers(0, n, n)
        try:
            drawn.append(statistic(*(array[rows] for array in arrays)))
        except InputError:
            continue
    return _interval(statistic(*arrays), np.asarray(drawn or [math.nan]), n, level)


def proportion(hits: int, n: int, *, level: float = 0.95) -> Interval:
    """hits / n with the score interval of Wilson (1927), which stays inside [0, 1] and is sound at both ends."""
    if n < 1 or not 0 <= hits <= n:
        raise InputError(f"{hits} of {n} is no proportion. Pass 0 <= hits <= n with n at least 1.")
    _check_level(level)
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = hits / n
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low = 0.0 if hits == 0 else center - half
    high = 1.0 if hits == n else center + half
    return Interval(share, low, high, n)


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """The chance that a positive item scores above a negative one, ties counting half (Mann-Whitney, average ranks).

    labels: 1 or True for positive, 0 or False for negative. Raises InputError if one class is absent.
    """
    score, label = _clean(scores, "scores"), _clean(labels, "labels")
    if len(score) != len(label) or not np.isin(label, (0, 1)).all():
        raise InputError(f"AUROC needs one label of 0 or 1 a score; got {len(score)} scores, {len(label)} labels.")
    positives = int(label.sum())
    negatives = len(label) - positives
    if not positives or not negatives:
        raise InputError(f"AUROC compares two classes; got {positives} positive, {negatives} negative. Pass both.")
    ranks = average_ranks(score)
    return float((ranks[label == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rank correlation: Pearson's of the average ranks. Raises InputError if a side is constant."""
    first, second = average_ranks(_clean(a, "a")), average_ranks(_clean(b, "b"))
    if len(first) != len(second):
        raise InputError(f"There are {len(first)} values in a and {len(second)} in b. Pass pairs.")
    first, second = first - first.mean(), second - second.mean()
    scale = math.sqrt(float(first @ first) * float(second @ second))
    if scale == 0:
        raise InputError("One side has the same value everywhere, so no rank correlation is defined. Pass others.")
    return float(first @ second) / scale


def average_ranks(values: ArrayLike) -> np.ndarray:
    """Ranks from 1, equal values sharing the mean of their ranks."""
    array = np.asarray(values, dtype=np.float64)
    _, where, counts = np.unique(array, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[where]


def _resampled(sums: np.ndarray, sizes: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Ratios of resampled sums to resampled sizes, drawn in chunks so that memory stays bounded."""
    if samples < 1:
        raise InputError(f"{samples} bootstrap samples give no interval. Pass at least 1, better 1000.")
    generator = np.random.default_rng(seed)
    n = len(sums)
    chunk = max(1, MAX_DRAWS_AT_ONCE // n)
    means = []
    for start in range(0, samples, chunk):
        rows = generator.integers(0, n, (min(chunk, samples - start), n))
        means.append(sums[rows].sum(1) / sizes[rows].sum(1))
    return np.concatenate(means)


def _by_group(values: np.ndarray, groups: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    if len(groups) != len(values):
        raise InputError(f"There are {len(values)} values and {len(groups)} group labels. Pass one label a value.")
    index = {label: number for number, label in enumerate(dict.fromkeys(groups))}
    where = np.asarray([index[label] for label in groups])
    return np.bincount(where, values), np.bincount(where).astype(np.float64)


def _interval(mean: float, drawn: np.ndarray, n: int, level: float) -> Interval:
    _check_level(level)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(mean), float(low), float(high), n)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise InputError(f"The level {level} is no probability. Pass one between 0 and 1, such as 0.95.")


def _clean(values: ArrayLike, name: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        found = f"shape {list(array.shape)}" if array.ndim != 1 or not len(array) else "NaN or infinity"
        raise InputError(f"{name} has {found}, which has no mean. Pass a row of at least one finite number.")
    return array
