"""The monitor on public recordings, which the shipped ranker has not seen: rules alone, with the ranker, and rankers
trained on one set and tested on another beside word counts."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from diorama.metrics.claims import Arm, Check
from diorama.metrics.intervals import Interval
from diorama.systems.agent_monitor.config import MINIATURE, Recipe
from diorama.systems.agent_monitor.data import FOLDS, PUBLIC, Sample, fold_of, public_samples, swaps
from diorama.systems.agent_monitor.evaluate import Scored, per_action, per_attempt, score_samples, stages_for
from diorama.systems.agent_monitor.ranker import Ranker
from diorama.systems.agent_monitor.recipe import fit
from diorama.systems.agent_monitor.scores import Counts, Estimate, auc, resample
from diorama.systems.agent_monitor.text import words
from diorama.systems.agent_monitor.train import Floats, newton

CROSSED = (("r_judge", "assebench"), ("assebench", "r_judge"))
"""(trained on, tested on)."""
WORDS = 2048


def interval_of(estimate: Estimate) -> Interval:
    """An estimate as the interval of a claim."""
    return Interval(estimate.mean, estimate.low, estimate.high, estimate.n)


def arm_of(name: str, scored: Scored, repeats: int, seeds: int = 1) -> Arm:
    """A scored set as an arm of the claim: per action and, where there are runs, per attempt."""
    found = {**per_action(scored, repeats=repeats), **per_attempt(scored, repeats=repeats)}
    return Arm(name, {key: interval_of(value) for key, value in found.items()}, seeds)


def word_counts(train: Sequence[Sample], test: Sequence[Sample]) -> Scored:
    """The baseline without context: logistic regression on which words a run's actions hold, threshold one half."""

    def table(samples: Sequence[Sample]) -> tuple[Floats, np.ndarray, list[Sample]]:
        bags: dict[str, list[Sample]] = {}
        for sample in samples:
            bags.setdefault(sample.bag, []).append(sample)
        x = np.zeros((len(bags), WORDS))
        for row, found in zip(x, bags.values(), strict=True):
            for sample in found:
                action = sample.step.action
                for word in words(f"{action.tool} {action.arguments[:20_000]} {action.thought[:20_000]}"):
                    row[zlib.crc32(word.encode()) % WORDS] += 1
        x = np.log1p(x)
        x /= np.maximum(1e-9, np.linalg.norm(x, axis=1, keepdims=True))
        first = [found[0] for found in bags.values()]
        return x, np.array([sample.label for sample in first]), first

    x, label, _ = table(train)
    kept, axes = np.linalg.eigh(x @ x.T)  # the weights lie in the span of the rows, so a rotation keeps the model whole
    large = kept > 1e-9
    basis = x.T @ axes[:, large] / np.sqrt(kept[large])
    design = np.hstack([x @ basis, np.ones((len(x), 1))])
    w = newton(design, label, np.ones(len(label)), 1 / len(label), np.zeros(design.shape[1]), np.zeros(design.shape[1]))
    y, truth, first = table(test)
    logit = np.hstack([y @ basis, np.ones((len(y), 1))]) @ w
    score = 100 - 64 / (1 + np.exp(-logit))  # one half lands on the threshold 68
    return Scored(score, truth, [s.group for s in first], [s.kind for s in first], [s.step.run for s in first])


def auc_difference(one: Scored, other: Scored, repeats: int) -> Interval:
    """AUC of one minus AUC of the other on the same bags, resampling groups."""

    def measure(rows: np.ndarray) -> float:
        return auc(one.risk[rows], one.label[rows]) - auc(other.risk[rows], other.label[rows])

    return interval_of(resample(one.group, measure, repeats=repeats))


def f1_difference(one: Scored, other: Scored, repeats: int) -> Interval:
    """F1 of one minus F1 of the other on the same bags, resampling groups."""
    ours, theirs = one.flagged(), other.flagged()

    def measure(rows: np.ndarray) -> float:
        return Counts.of(ours[rows], one.label[rows]).f1 - Counts.of(theirs[rows], one.label[rows]).f1

    return interval_of(resample(one.group, measure, repeats=repeats))


def random_halves(samples: Sequence[Sample], recipe: Recipe) -> Scored:
    """The figure that flatters: runs of one set split by chance, so that a user's request may be on both sides."""
    bags = {sample.bag for sample in samples}
    inside = {bag for bag in bags if fold_of(bag) < FOLDS // 2}
    loose = [replace(sample, group=sample.bag) for sample in samples]
    ranker = fit([sample for sample in loose if sample.bag in inside], recipe, for_f1=True)
    return score_samples([sample for sample in samples if sample.bag not in inside], stages_for("ranker", ranker))


def public_arms(
    data: Path, recipe: Recipe, repeats: int, progress: Callable[[str], None]
) -> tuple[list[Arm], list[Check]]:
    """Arms and checks on the public sets that the folder holds; no set is known to what is tested on it."""
    arms, checks = [], []
    sets = {name: public_samples(data, name) for name, path in PUBLIC.items() if (data / path).exists()}
    shipped = Ranker.from_pretrained(MINIATURE)
    for name, samples in sets.items():
        if len({sample.label for sample in samples}) == 2:
            progress(f"agent-monitor: {name}")
            for what, ranker in (("rules alone", None), ("shipped ranker", shipped)):
                scored = score_samples(samples, stages_for("full" if ranker else "rules", ranker))
                arms.append(arm_of(f"{name}: {what}", scored, repeats))
    for source, target in CROSSED:
        if source in sets and target in sets:
            progress(f"agent-monitor: trained on {source}, tested on {target}")
            found = _crossed(source, target, sets, recipe, repeats)
            arms += found[0]
            checks += found[1]
    if "autogpt_test" in sets:
        own, swapped = swaps(sets["autogpt_test"], 2)
        scored = score_samples([*own, *swapped], stages_for("full", shipped))
        arms.append(arm_of("autogpt_test: context swaps, shipped ranker", scored, repeats))
    return arms, checks


def _crossed(
    source: str, target: str, sets: Mapping[str, Sequence[Sample]], recipe: Recipe, repeats: int
) -> tuple[list[Arm], list[Check]]:
    ranker = fit(sets[source], recipe, for_f1=True)
    crossed = score_samples(sets[target], stages_for("ranker", ranker))
    counted = word_counts(sets[source], sets[target])
    arms = [
        arm_of(f"{target}: trained on {source} only", crossed, repeats),
        arm_of(f"{target}: word counts trained on {source}", counted, repeats),
        arm_of(f"{source}: random halves (flatters)", random_halves(sets[source], recipe), repeats),
    ]
    says = f"trained on {source}, tested on {target}:"
    return arms, [
        Check(f"{says} AUC above that of word counts", auc_difference(crossed, counted, repeats)),
        Check(f"{says} F1 above that of word counts", f1_difference(crossed, counted, repeats)),
    ]
