"""Training of the ranker: weighted logistic regression by Newton's method, with one label a bag (its worst row counts).

There is no randomness in it. Which rows are a bag's worst depends on the model, so fitting and choosing alternate.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diorama.systems.agent_monitor.data import FOLDS, Table, fold_of
from diorama.systems.agent_monitor.directions import direction
from diorama.systems.agent_monitor.ranker import Ranker
from diorama.systems.agent_monitor.rarity import Rarity
from diorama.systems.agent_monitor.scores import Counts

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """decay: the L2 weight on standardised features. rounds: how often the worst rows are chosen anew.
    false_stops: the share of safe bags of unseen groups that may be flagged; it sets the cut, and None sets it where F1
    on unseen groups is best."""

    decay: float = 2e-2
    rounds: int = 6
    false_stops: float | None = 0.02


NEWTON_STEPS = 100
MAIN = "tool_world"
SIDE_WEIGHT = 0.35
"""Beside whole runs of the tool world, where each action has its label, everything else counts less: swaps and requests
sharpen one side of the task only, and recordings have one label a run."""


def source_weight(name: str, sources: Collection[str]) -> float:
    """How much a source counts among others."""
    return 1.0 if name == MAIN or MAIN not in sources else SIDE_WEIGHT


def bag_weights(table: Table) -> Floats:
    """One weight a bag, so that sources count by `source_weight` and within one safe and unsafe alike."""
    weights = np.zeros(len(table.label))
    source, sources = np.array(table.source), set(table.source)
    for name in sources:
        for label in (0, 1):
            rows = (source == name) & (table.label == label)
            if rows.any():
                weights[rows] = source_weight(name, sources) * len(table.label) / rows.sum()
    return weights / weights.mean()


def worst_rows(logit: Floats, bag: npt.NDArray[np.int_], count: int) -> npt.NDArray[np.int_]:
    """The index of the row with the highest logit of each of `count` bags."""
    order = np.lexsort((logit, bag))
    return order[np.searchsorted(bag[order], np.arange(count), side="right") - 1]


def newton(
    x: Floats, label: npt.NDArray[np.int_], weight: Floats, decay: float, start: Floats, signs: Floats
) -> Floats:
    """The minimum of the weighted mean logistic loss + decay / 2 |w|^2, the last column (the bias) undecayed, among
    weights of the given signs (0: either). Newton's method on the weights that are not held at zero by their sign."""
    ridge = np.full(x.shape[1], decay)
    ridge[-1] = 1e-6
    share = weight / weight.sum()

    def allowed(w: Floats) -> Floats:
        return np.where(signs * w < 0, 0.0, w)

    def loss(w: Floats) -> float:
        logit = x @ w
        return float(share @ (np.logaddexp(0, logit) - label * logit) + 0.5 * (ridge * w * w).sum())

    w = allowed(start)
    before = loss(w)
    for _ in range(NEWTON_STEPS):
        p = 1 / (1 + np.exp(-(x @ w).clip(-30, 30)))
        slope = x.T @ (share * (p - label)) + ridge * w
        bend = (x * (share * p * (1 - p))[:, None]).T @ x + np.diag(ridge)
        free = ~((signs * w <= 0) & (signs * slope > 0))
        step = np.zeros_like(w)
        step[free] = np.linalg.solve(bend[np.ix_(free, free)], slope[free])
        size = 1.0
        while (after := loss(allowed(w - size * step))) > before and size > 1e-4:
            size /= 2
        w = allowed(w - size * step)
        if before - after < 1e-9:
            break
        before = after
    return w


def fit_ranker(table: Table, names: list[str], rarity: Rarity, config: TrainConfig) -> Ranker:
    """A ranker for labelled bags, its cut not set yet."""
    shift = table.x.mean(0).astype(np.float32)
    scale = (1 / np.maximum(table.x.std(0), 0.05)).astype(np.float32)
    x = ((table.x - shift) * scale).clip(-5, 5).astype(np.float64)
    x = np.hstack([x, np.ones((len(x), 1))])
    bags, weight = len(table.label), bag_weights(table)
    signs = np.array([*(direction(name) for name in names), 0], np.float64)
    sizes = np.bincount(table.bag, minlength=bags)
    rows_weight = (weight / sizes)[table.bag]
    w = newton(x, table.label[table.bag], rows_weight, config.decay, np.zeros(x.shape[1]), signs)
    chosen = np.zeros(0, int)
    for _ in range(config.rounds if len(x) > bags else 0):
        rows = worst_rows(x @ w, table.bag, bags)
        if np.array_equal(rows, chosen):
            break
        chosen = rows
        w = newton(x[rows], table.label, weight, config.decay, w, signs)
    return Ranker(names, rarity, shift, scale, w[:-1].astype(np.float32), float(w[-1]), 0.0, -0.5)


def bag_logits(ranker: Ranker, table: Table) -> Floats:
    """The worst logit of each bag, (bags,)."""
    x = ((table.x - ranker.shift) * ranker.scale).clip(-5, 5).astype(np.float64)
    logit = x @ ranker.weights.astype(np.float64) + ranker.bias
    return logit[worst_rows(logit, table.bag, len(table.label))]


def train_ranker(table: Table, names: list[str], rarity: Rarity, config: TrainConfig | None = None) -> Ranker:
    """Fit a ranker to labelled bags. The cut is set where config.false_stops of the safe bags would be flagged by
    rankers that never saw the bags' groups."""
    config = config or TrainConfig()
    ranker = fit_ranker(table, names, rarity, config)
    fold = np.array([fold_of(group) for group in table.group])
    unseen = np.zeros(len(table.label))
    for index in range(FOLDS):
        inside = np.flatnonzero(fold == index)
        if len(inside) and len(inside) < len(fold):
            part = fit_ranker(table.select(np.flatnonzero(fold != index).tolist()), names, rarity, config)
            unseen[inside] = bag_logits(part, table.select(inside.tolist()))
    set_cut(ranker, table, unseen, config.false_stops)
    return ranker


def set_cut(ranker: Ranker, table: Table, logits: Floats, false_stops: float | None) -> None:
    """Put the cut where this share of the safe bags has a logit above it; None: where F1 is best.

    Only whole runs of the tool world count where there are any: that is what the recipe's share is about.
    """
    sources = set(table.source)
    counted = np.array([source_weight(name, sources) == 1.0 for name in table.source])
    label, logits = table.label[counted], logits[counted]
    if false_stops is None:
        ranker.cut = float(max(np.unique(logits), key=lambda cut: Counts.of(logits >= cut, label).f1))
    else:
        safe = np.sort(logits[label == 0])[::-1]
        ranker.cut = float(safe[min(int(false_stops * len(safe)), len(safe) - 1)]) + 1e-4
    ranker.review = ranker.cut - 0.35
