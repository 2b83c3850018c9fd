"""JUICE, the paper's protocol for comparing two video models by people, and what is computed from its records.

Two clips of one prompt are shown side by side and judged on two separate questions; whoever chooses must tick at least
one reason. A record is one pair with its votes; `read_comparisons` reads them from JSON lines:

    {"prompt": "a fox jumps", "question": "quality", "left": "ours", "right": "theirs",
     "votes": [{"rater": "1", "choice": "left", "reasons": ["motion smoothness"]}, ...]}
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal, get_args

import numpy as np

from diorama.errors import InputError
from diorama.metrics import Interval, bootstrap, bootstrap_statistic

Question = Literal["quality", "faithfulness"]
Side = Literal["left", "right"]
REASONS: dict[Question, tuple[str, ...]] = {
    "quality": ("motion smoothness", "consistency of objects and scene", "pixel sharpness",
                "recognizable objects and scene", "amount of motion"),
    "faithfulness": ("spatial alignment with the text", "temporal alignment with the text"),
}
"""What may be ticked for each question (section 3.3, JUICE)."""
RATERS = 5
"""Votes a pair in the paper; the majority decides."""


@dataclass(frozen=True)
class Vote:
    """One rater's choice of a side, and the reasons ticked."""

    rater: str
    choice: Side
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """One pair as it was shown, and the votes on one question."""

    prompt: str
    question: Question
    left: str
    right: str
    votes: tuple[Vote, ...]

    def votes_for(self, model: str) -> int:
        """How many raters preferred the model's clip."""
        return sum((self.left if vote.choice == "left" else self.right) == model for vote in self.votes)

    def share_won(self, model: str) -> float:
        """1 if the majority preferred the model's clip, 0 if the other's, a half each at a draw."""
        own, other = self.votes_for(model), len(self.votes) - self.votes_for(model)
        return 0.5 if own == other else float(own > other)

    @property
    def agreement(self) -> str:
        """The larger and the smaller camp, such as "4|1": with five raters 3|2 is split, 4|1 partial, 5|0 complete."""
        own = self.votes_for(self.left)
        return f"{max(own, len(self.votes) - own)}|{min(own, len(self.votes) - own)}"


def read_comparisons(path: Path | str, *, reasons_required: bool = True) -> list[Comparison]:
    """Records from a JSON-lines file. `reasons_required=False` reads the naive protocol, in which nothing is ticked.

    Raises InputError naming the line for what is no record, another pair of models, or a vote without a known reason.
    """
    path = Path(path)
    found: list[Comparison] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            found.append(_comparison(line, f"{path.name}, line {number}", reasons_required))
    models_of(found)
    return found


def models_of(comparisons: Sequence[Comparison]) -> tuple[str, str]:
    """The two models that are compared, in the order of their names; InputError for none or for more."""
    if not comparisons:
        raise InputError("There are no comparisons to count. Pass at least one record.")
    pairs = {frozenset((c.left, c.right)) for c in comparisons}
    models = sorted(frozenset().union(*pairs))
    if len(pairs) != 1 or len(models) != 2:
        raise InputError(f"The records compare {', '.join(models)}, and a win rate is between two models. "
                         "Pass the records of one pair at a time.")
    return models[0], models[1]


def win_rate(comparisons: Sequence[Comparison], model: str, *, seed: int = 0) -> Interval:
    """The share of prompts whose majority preferred the model, a draw counting half, with a bootstrap over prompts."""
    _check_model(comparisons, model)
    return bootstrap([c.share_won(model) for c in comparisons], groups=[c.prompt for c in comparisons], seed=seed)


def agreement_classes(comparisons: Sequence[Comparison], *, seed: int = 0) -> dict[str, Interval]:
    """How often the raters were divided in each way, the most agreed first: 5|0, 4|1 and 3|2 with five raters."""
    models_of(comparisons)
    prompts = [c.prompt for c in comparisons]
    classes = sorted({c.agreement for c in comparisons}, key=lambda name: -int(name.split("|")[0]))
    return {name: bootstrap([c.agreement == name for c in comparisons], groups=prompts, seed=seed)
            for name in classes}


def fleiss_kappa(comparisons: Sequence[Comparison], *, seed: int = 0) -> Interval:
    """Fleiss' kappa (1971) of the raters' choices, with a bootstrap over records.

    P_i = (sum_j n_ij^2 - n) / (n (n - 1)); kappa = (mean P - P_e) / (1 - P_e) with P_e from the overall shares.
    Raises InputError for records with different numbers of raters, for fewer than two, and where everybody always
    chose the same model, which leaves nothing to agree about.
    """
    first, _ = models_of(comparisons)
    raters = {len(c.votes) for c in comparisons}
    if len(raters) != 1 or min(raters) < 2:
        raise InputError(f"Fleiss' kappa needs the same number of raters everywhere, two or more; the records have "
                         f"{sorted(raters)}. Leave out the records with missing votes.")
    (count,) = raters
    return bootstrap_statistic(lambda votes: _kappa(votes, count), [c.votes_for(first) for c in comparisons], seed=seed)


def reason_shares(comparisons: Sequence[Comparison], model: str) -> dict[str, float]:
    """Of the votes for the model, the share that ticked each reason, the commonest first."""
    _check_model(comparisons, model)
    winning = [vote for c in comparisons for vote in c.votes
               if (c.left if vote.choice == "left" else c.right) == model]
    counts = Counter(reason for vote in winning for reason in vote.reasons)
    return {reason: count / len(winning) for reason, count in counts.most_common()}


def summary(comparisons: Sequence[Comparison], *, seed: int = 0) -> dict[str, Any]:
    """Win rates, agreement classes, kappa and reasons for each question, as plain values."""
    models = models_of(comparisons)
    told: dict[str, Any] = {}
    for question in get_args(Question):
        chosen = [c for c in comparisons if c.question == question]
        if not chosen:
            continue
        told[question] = {
            "records": len(chosen),
            "win rate": {model: _plain(win_rate(chosen, model, seed=seed)) for model in models},
            "agreement": {name: _plain(share) for name, share in agreement_classes(chosen, seed=seed).items()},
            "reasons": {model: reason_shares(chosen, model) for model in models},
        }
        try:
            told[question]["fleiss kappa"] = _plain(fleiss_kappa(chosen, seed=seed))
        except InputError as error:
            told[question]["fleiss kappa"] = str(error)
    return told


def questionnaire(prompts: Sequence[str], models: tuple[str, str], *, seed: int = 0) -> list[dict[str, Any]]:
    """What raters are to be shown: both questions a prompt with their reasons, each model on the left half of the time.

    Sides are drawn anew for every question; `votes` is empty and to be filled in.
    """
    if len(set(models)) != 2:
        raise InputError(f"A comparison needs two models, and {models[0]!r} was named twice. Name two.")
    rng = Random(f"sides {seed}")
    items: list[dict[str, Any]] = []
    for question, reasons in REASONS.items():
        first_is_left = [number % 2 == 0 for number in range(len(prompts))]
        rng.shuffle(first_is_left)
        for prompt, is_left in zip(prompts, first_is_left, strict=True):
            left, right = models if is_left else models[::-1]
            items.append({"prompt": prompt, "question": question, "left": left, "right": right,
                          "reasons": list(reasons), "votes": []})
    return items


def _kappa(votes: np.ndarray, raters: int) -> float:
    """Kappa from how many of the raters chose the first of two categories, one number a record."""
    agreed = (votes**2 + (raters - votes) ** 2 - raters) / (raters * (raters - 1))
    share = votes.mean() / raters
    chance = share**2 + (1 - share) ** 2
    if chance == 1:
        raise InputError("Every vote went to the same model, so there is nothing to agree about and kappa is 0/0. "
                         "Report the win rate alone.")
    return float((agreed.mean() - chance) / (1 - chance))


def _check_model(comparisons: Sequence[Comparison], model: str) -> None:
    if model not in models_of(comparisons):
        raise InputError(f"{model!r} is none of the compared models, {' and '.join(models_of(comparisons))}. "
                         "Name one of these.")


def _comparison(line: str, place: str, reasons_required: bool) -> Comparison:
    try:
        values = json.loads(line)
        votes = tuple(Vote(str(v["rater"]), v["choice"], tuple(v.get("reasons", ()))) for v in values["votes"])
        comparison = Comparison(values["prompt"], values["question"], values["left"], values["right"], votes)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{place} is no record of a comparison ({type(error).__name__}: {error}). Write prompt, "
                         "question, left, right and votes, each vote with rater, choice and reasons.") from error
    _check(comparison, place, reasons_required)
    return comparison


def _check(comparison: Comparison, place: str, reasons_required: bool) -> None:
    if comparison.question not in REASONS:
        raise InputError(f"{place} asks {comparison.question!r}. The questions are {' and '.join(REASONS)}.")
    if not comparison.votes or comparison.left == comparison.right:
        raise InputError(f"{place} has {len(comparison.votes)} votes on {comparison.left!r} against "
                         f"{comparison.right!r}. A record needs two models and at least one vote.")
    known = REASONS[comparison.question]
    for vote in comparison.votes:
        if vote.choice not in get_args(Side):
            raise InputError(f"{place}: rater {vote.rater} chose {vote.choice!r}. Write left or right.")
        wrong = [reason for reason in vote.reasons if reason not in known]
        if wrong or (reasons_required and not vote.reasons):
            ticked = f"ticked {', '.join(map(repr, wrong))}" if wrong else "ticked no reason"
            raise InputError(f"{place}: rater {vote.rater} {ticked}. Tick at least one of {', '.join(known)}.")


def _plain(interval: Interval) -> Mapping[str, float | int]:
    return {"mean": interval.mean, "low": interval.low, "high": interval.high, "n": interval.n}
