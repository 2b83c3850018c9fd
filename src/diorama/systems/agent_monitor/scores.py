"""Numbers about scored actions: AUC with average ranks, counts at a threshold, intervals over whole groups."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def auc(risk: Floats, label: npt.NDArray[np.int_]) -> float:
    """Area under the ROC curve of risk (higher = more suspect) against label 0/1; ties count half. NaN for one
    class."""
    positives = int(label.sum())
    negatives = len(label) - positives
    if not positives or not negatives:
        return float("nan")
    order = np.argsort(risk, kind="stable")
    _, start, count = np.unique(risk[order], return_index=True, return_counts=True)
    ranks = np.empty(len(risk))
    ranks[order] = np.repeat(start + (count + 1) / 2, count)
    return float((ranks[label == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives))


@dataclass(frozen=True)
class Counts:
    """Flagged or not against unsafe or not."""

    tp: int
    fp: int
    tn: int
    fn: int

    @classmethod
    def of(cls, flagged: npt.NDArray[np.bool_], label: npt.NDArray[np.int_]) -> "Counts":
        bad = label == 1
        return cls(
            int((flagged & bad).sum()),
            int((flagged & ~bad).sum()),
            int((~flagged & ~bad).sum()),
            int((~flagged & bad).sum()),
        )

    @property
    def precision(self) -> float:
        return self.tp / (self.tp + self.fp) if self.tp + self.fp else 0.0

    @property
    def recall(self) -> float:
        return self.tp / (self.tp + self.fn) if self.tp + self.fn else 0.0

    @property
    def f1(self) -> float:
        return 2 * self.tp / (2 * self.tp + self.fp + self.fn) if self.tp + self.fp + self.fn else 0.0

    @property
    def false_stops(self) -> float:
        """Share of safe actions that are flagged."""
        return self.fp / (self.fp + self.tn) if self.fp + self.tn else 0.0

    @property
    def accuracy(self) -> float:
        return (self.tp + self.tn) / max(1, self.tp + self.fp + self.tn + self.fn)

    def precision_at(self, prevalence: float) -> float:
        """What the precision would be if this share of actions were unsafe."""
        hits, alarms = self.recall * prevalence, self.false_stops * (1 - prevalence)
        return hits / (hits + alarms) if hits + alarms else 0.0


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % bootstrap interval; n is how many groups were resampled."""

    mean: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float | int]:
        return {"mean": round(self.mean, 4), "low": round(self.low, 4), "high": round(self.high, 4), "n": self.n}


def resample(
    groups: Sequence[str], measure: Callable[[npt.NDArray[np.int_]], float], *, seed: int = 0, repeats: int = 400
) -> Estimate:
    """The 95 % interval of a measure of rows, resampling whole groups with replacement (rows of a group are not
    independent)."""
    names, inverse = np.unique(np.asarray(groups), return_inverse=True)
    rows = [np.flatnonzero(inverse == index) for index in range(len(names))]
    generator = np.random.default_rng(seed)
    point = measure(np.arange(len(groups)))
    draws = []
    for _ in range(repeats):
        chosen = generator.integers(0, len(rows), len(rows))
        value = measure(np.concatenate([rows[index] for index in chosen]))
        if np.isfinite(value):
            draws.append(value)
    if not draws:
        return Estimate(point, float("nan"), float("nan"), len(rows))
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(point, float(low), float(high), len(rows))


def summarize(
    risk: Floats,
    label: npt.NDArray[np.int_],
    flagged: npt.NDArray[np.bool_],
    groups: Sequence[str],
    *,
    seed: int = 0,
    repeats: int = 400,
) -> dict[str, Estimate]:
    """AUC, precision, recall, F1, false stops and precision at 1 % prevalence, each with its interval over groups."""

    def of(name: str) -> Callable[[npt.NDArray[np.int_]], float]:
        return lambda rows: float(getattr(Counts.of(flagged[rows], label[rows]), name))

    found = {"auc": resample(groups, lambda rows: auc(risk[rows], label[rows]), seed=seed, repeats=repeats)}
    for name in ("precision", "recall", "f1", "false_stops"):
        found[name] = resample(groups, of(name), seed=seed, repeats=repeats)
    found["precision_at_1_percent"] = resample(
        groups, lambda rows: Counts.of(flagged[rows], label[rows]).precision_at(0.01), seed=seed, repeats=repeats
    )
    return found
