"""Accuracy by task with intervals, Winoground's three scores, and two checkpoints compared on the same items."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from diorama.checkpoints import write_text
from diorama.errors import InputError
from diorama.metrics import Interval, bootstrap, paired_difference
from diorama.systems.selfeval.items import Item
from diorama.systems.selfeval.pipeline import SelfEval, Verdict


@dataclass(frozen=True)
class Result:
    """One item examined: `credit` is 1 for a right answer, 1/g where g captions tie for the best with it among them."""

    item: int
    task: str
    chance: float
    credit: float
    probability: float
    """Of the right caption."""
    calls: float
    """Network calls a caption, mean over the item's captions."""
    tied: bool
    decided: bool
    options: tuple[str, ...]


def results_of(items: Sequence[Item], verdicts: Sequence[Verdict]) -> list[Result]:
    """Verdicts held against the answers."""
    return [
        Result(number, item.task, item.chance, verdict.choice.credit(item.answer),
               verdict.probabilities[item.answer], float(np.mean(verdict.calls)), len(verdict.choice.best) > 1,
               verdict.choice.decided, item.options)
        for number, (item, verdict) in enumerate(zip(items, verdicts, strict=True))
    ]


def examine(exam: SelfEval, items: Sequence[Item]) -> list[Result]:
    """Examine a generator on items."""
    return results_of(items, exam.examine(items))


def accuracy(results: Sequence[Result]) -> dict[str, Interval]:
    """Mean credit a task, in the order met, with a bootstrap interval over items."""
    return {task: bootstrap([r.credit for r in results if r.task == task])
            for task in dict.fromkeys(r.task for r in results)}


def summary(results: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """Accuracy, interval, chance, ties, undecided items and calls a task."""
    rows = {}
    for task, interval in accuracy(results).items():
        own = [r for r in results if r.task == task]
        rows[task] = {
            "accuracy": interval.mean, "low": interval.low, "high": interval.high, "n": interval.n,
            "chance": float(np.mean([r.chance for r in own])), "ties": sum(r.tied for r in own),
            "undecided": sum(not r.decided for r in own), "calls": float(np.mean([r.calls for r in own])),
        }
    return rows


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The summary as text."""
    lines = [f"{'task':12} {'accuracy':>8}  {'95 %':>15}  {'chance':>6}  {'n':>4}  {'ties':>4}  {'calls':>6}"]
    for task, row in rows.items():
        interval = f"{row['low']:.1%} - {row['high']:.1%}"
        lines.append(f"{task:12} {row['accuracy']:8.1%}  {interval:>15}  {row['chance']:6.0%}  {row['n']:4d}  "
                     f"{row['ties']:4d}  {row['calls']:6.1f}")
    return "\n".join(lines)


# ---- pairs -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairResult:
    """Winoground's three verdicts on each pair, bool (P,)."""

    text: np.ndarray
    """Both images get their own caption."""
    image: np.ndarray
    """Both captions get their own image."""

    @property
    def group(self) -> np.ndarray:
        """Both."""
        return self.text & self.image

    def intervals(self) -> dict[str, Interval]:
        """Shares with bootstrap intervals over pairs; chance is 25, 25 and 16.7 %."""
        return {name: bootstrap(getattr(self, name)) for name in ("text", "image", "group")}


def pair_result(scores: Tensor) -> PairResult:
    """The verdicts on scores (P, 2, 2) of image by caption; equal scores are wrong (arXiv 2204.03162, section 3)."""
    own = scores.double().numpy()
    text = (own[:, 0, 0] > own[:, 0, 1]) & (own[:, 1, 1] > own[:, 1, 0])
    image = (own[:, 0, 0] > own[:, 1, 0]) & (own[:, 1, 1] > own[:, 0, 1])
    return PairResult(text, image)


# ---- two checkpoints ---------------------------------------------------------------------------------------------


def compare(first: Sequence[Result], second: Sequence[Result]) -> dict[str, dict[str, float]]:
    """Credit of the first less the second's on the same items, a task and in all, with intervals and a p value.

    p: two-sided exact sign test over the items on which they differ. Raises InputError for other items.
    """
    if [(r.task, r.options) for r in first] != [(r.task, r.options) for r in second]:
        raise InputError("The two examinations are of different items, which cannot be paired. "
                         "Evaluate both checkpoints on the same file, or on the world with one seed.")
    rows = {}
    for task in [*dict.fromkeys(r.task for r in first), "all"]:
        own = [k for k, r in enumerate(first) if task in (r.task, "all")]
        a, b = [first[k].credit for k in own], [second[k].credit for k in own]
        gap = paired_difference(a, b)
        rows[task] = {"difference": gap.mean, "low": gap.low, "high": gap.high, "n": gap.n, "p": sign_test(a, b)}
    return rows


def sign_test(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided exact binomial p of as many wins among the items on which a and b differ (McNemar's exact test)."""
    wins, losses = (sum(x > y for x, y in zip(*pair, strict=True)) for pair in ((a, b), (b, a)))
    total = wins + losses
    if total == 0:
        return 1.0
    tail = sum(comb(total, k) for k in range(max(wins, losses), total + 1)) / 2**total
    return min(1.0, 2 * tail)


# ---- files -------------------------------------------------------------------------------------------------------


def write_results(path: Path, results: Sequence[Result]) -> None:
    """One JSON line an item."""
    write_text(path, "".join(json.dumps(asdict(result)) + "\n" for result in results))


def read_results(path: Path) -> list[Result]:
    """What `write_results` wrote; InputError for anything else."""
    try:
        entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return [Result(**{**entry, "options": tuple(entry["options"])}) for entry in entries]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} holds no results of an examination ({type(error).__name__}: {error}). "
                         "Pass a results.jsonl that `diorama selfeval evaluate --out` wrote.") from error
