"""Training of the ranker in numpy: Adam on a two-layer network, with one label a bag (the worst row of a bag
counts)."""

import zlib
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from diorama.systems.agent_monitor.data import Table, word_matrix
from diorama.systems.agent_monitor.features import BUCKETS, Rarity
from diorama.systems.agent_monitor.ranker import Ranker
from diorama.systems.agent_monitor.scores import Counts

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """hidden = 0 gives a logistic model. decay is the L2 weight; word_decay the same for hashed words, 0 leaves them
    out.
    false_stops: the share of safe training bags that may be flagged; it sets the cut. None sets the cut where F1 is
    best."""

    hidden: int = 24
    members: int = 3
    steps: int = 300
    batch: int = 256
    rate: float = 0.01
    decay: float = 2e-3
    word_decay: float = 0.0
    dropout: float = 0.15
    false_stops: float | None = 0.04
    folds: int = 4
    seed: int = 0


SOURCE_WEIGHT = {"context_swap": 0.35, "requests": 0.35}
"""Sources that only sharpen one side of the task count less than whole runs do."""


def bag_weights(table: Table) -> Array:
    """One weight a bag, so that sources count by SOURCE_WEIGHT (1 unless named there) and within one safe and unsafe
    alike."""
    weights = np.zeros(len(table.label), np.float32)
    source = np.array(table.source)
    for name in set(table.source):
        for label in (0, 1):
            rows = (source == name) & (table.label == label)
            if rows.any():
                weights[rows] = SOURCE_WEIGHT.get(name, 1.0) * len(table.label) / rows.sum()
    return weights / weights.mean()


def _worst_rows(logit: Array, bag: npt.NDArray[np.int_], count: int) -> npt.NDArray[np.int_]:
    order = np.lexsort((logit, bag))
    last = np.searchsorted(bag[order], np.arange(count), side="right") - 1
    return order[last]


def _fit_member(
    x: Array, table: Table, words: Array | None, config: TrainConfig, seed: int
) -> tuple[dict[str, Array], Array]:
    """One network. Each step draws config.batch bags, safe and unsafe of every source alike; only a bag's worst row
    learns."""
    g = np.random.default_rng(seed)
    features, hidden = x.shape[1], max(1, config.hidden)
    scale = 0.0 if config.hidden == 0 else 1.0
    p: dict[str, Array] = {
        "w1": (scale * g.normal(0, features**-0.5, (hidden, features))).astype(np.float32),
        "b1": np.zeros(hidden, np.float32),
        "w2": (scale * g.normal(0, hidden**-0.5, hidden)).astype(np.float32),
        "skip": np.zeros(features, np.float32),
        "bias": np.zeros(1, np.float32),
        "words": np.zeros(BUCKETS if words is not None else 1, np.float32),
    }
    moments = {name: (np.zeros_like(value), np.zeros_like(value)) for name, value in p.items()}
    weight = bag_weights(table).astype(np.float64)
    edges = np.searchsorted(table.bag, np.arange(len(table.label) + 1))
    for step in range(1, config.steps + 1):
        bags = g.choice(len(table.label), config.batch, p=weight / weight.sum())
        sizes = edges[bags + 1] - edges[bags]
        order = np.concatenate([np.arange(edges[b], edges[b + 1]) for b in bags])
        seen = x[order] * ((g.random((1, features)) > config.dropout) / (1 - config.dropout)).astype(np.float32)
        pre = seen @ p["w1"].T + p["b1"]
        active = np.maximum(pre, 0)
        logit = active @ p["w2"] + seen @ p["skip"] + p["bias"]
        if words is not None:
            logit = logit + words[order] @ p["words"]
        rows = _worst_rows(logit, np.repeat(np.arange(config.batch), sizes), config.batch)
        error = ((1 / (1 + np.exp(-logit[rows].clip(-30, 30))) - table.label[bags]) / config.batch).astype(np.float32)
        chosen = seen[rows]
        back = (error[:, None] * p["w2"]) * (pre[rows] > 0)
        gradients = {
            "w1": scale * (back.T @ chosen) + config.decay * p["w1"],
            "b1": scale * back.sum(0),
            "w2": scale * (error @ active[rows]) + config.decay * p["w2"],
            "skip": error @ chosen + config.decay * p["skip"],
            "bias": np.array([error.sum()], np.float32),
            "words": (error @ words[order][rows] + config.word_decay * p["words"])
            if words is not None
            else np.zeros(1, np.float32),
        }
        rate = config.rate * (1 - step / (config.steps + 1))
        for name, gradient in gradients.items():
            first, second = moments[name]
            first += 0.1 * (gradient - first)
            second += 0.001 * (gradient * gradient - second)
            p[name] = (
                p[name] - rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
            ).astype(np.float32)
    bag_words = p.pop("words")
    p["bias"] = p["bias"].reshape(())
    return p, bag_words


def bag_logits(ranker: Ranker, table: Table) -> Array:
    """The worst logit of each bag, (bags,)."""
    x = ((table.x - ranker.shift) * ranker.scale).clip(-5, 5)
    logit = np.zeros(len(x), np.float32)
    for member in ranker.members:
        logit += np.maximum(x @ member["w1"].T + member["b1"], 0) @ member["w2"] + x @ member["skip"] + member["bias"]
    logit /= len(ranker.members)
    if ranker.words.any():
        logit += word_matrix(table.words) @ ranker.words
    return logit[_worst_rows(logit, table.bag, len(table.label))]


def train_ranker(table: Table, names: list[str], rarity: Rarity, config: TrainConfig | None = None) -> Ranker:
    """Fit a ranker to labelled bags. The cut is set where config.false_stops of the safe bags would be flagged by
    rankers
    that never saw the bags' groups (config.folds folds)."""
    config = config or TrainConfig()
    ranker = _fit(table, names, rarity, config)
    fold = np.array([zlib.crc32(f"{config.seed}|{group}".encode()) % config.folds for group in table.group])
    unseen = np.zeros(len(table.label), np.float32)
    for index in range(config.folds):
        inside = np.flatnonzero(fold == index)
        if len(inside):
            part = _fit(table.select(np.flatnonzero(fold != index).tolist()), names, rarity, replace(config, members=1))
            unseen[inside] = bag_logits(part, table.select(inside.tolist()))
    set_cut(ranker, table, unseen, config.false_stops)
    return ranker


def _fit(table: Table, names: list[str], rarity: Rarity, config: TrainConfig) -> Ranker:
    shift = table.x.mean(0).astype(np.float32)
    scale = (1 / np.maximum(table.x.std(0), 0.05)).astype(np.float32)
    x = ((table.x - shift) * scale).clip(-5, 5).astype(np.float32)
    words = word_matrix(table.words) if config.word_decay > 0 else None
    fitted = [_fit_member(x, table, words, config, config.seed * 100 + index) for index in range(config.members)]
    return Ranker(
        names,
        rarity,
        shift,
        scale,
        [member for member, _ in fitted],
        np.mean([extra for _, extra in fitted], axis=0).astype(np.float32)
        if words is not None
        else np.zeros(BUCKETS, np.float32),
        0.0,
        -0.5,
    )


def set_cut(ranker: Ranker, table: Table, logits: Array, false_stops: float | None) -> None:
    """Put the cut where this share of the safe bags has a logit above it, sources counting as in training; None: at
    the best F1."""
    if false_stops is None:
        cuts = np.unique(logits)
        ranker.cut = float(max(cuts, key=lambda cut: Counts.of(logits >= cut, table.label).f1))
    else:
        safe = table.label == 0
        source = np.array(table.source)
        weight = np.array(
            [SOURCE_WEIGHT.get(name, 1.0) / max(1, int((safe & (source == name)).sum())) for name in table.source]
        )[safe]
        order = np.argsort(-logits[safe])
        share = np.cumsum(weight[order]) / weight.sum()
        index = int(np.searchsorted(share, false_stops))
        ranker.cut = float(logits[safe][order][min(index, len(order) - 1)]) + 1e-4
    ranker.review = ranker.cut - 0.35
