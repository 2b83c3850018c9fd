"""Examinations of the closed-form mixture: what each estimator makes of a perfect model, beside Bayes' own answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diorama.diffusion import schedules
from diorama.diffusion.likelihood import Loss
from diorama.diffusion.schedules import Schedule
from diorama.systems.selfeval.choice import choose
from diorama.systems.selfeval.config import Elimination, Estimator
from diorama.systems.selfeval.estimators import score
from diorama.systems.selfeval.evaluate import PairResult, pair_result
from diorama.systems.selfeval.mixture import CAPTIONS, NOTHING, Mixture, mixture

CHOSEN_ON = range(100, 112)
"""Seeds of the mixtures on which defaults are chosen; nothing that is reported is measured on them."""
REPORTED_ON = range(1, 7)
"""Seeds of the mixtures on which everything is reported."""
ROWS = 4096
"""Rows at once: a closed form has no network to overflow."""


@dataclass(frozen=True)
class Toy:
    """Values drawn from a mixture, the caption of each, the model that examines them, and the seed of its noise."""

    model: Mixture
    clean: Tensor
    answers: Tensor
    seed: int

    @classmethod
    def make(cls, count: int, seed: int, schedule: Schedule | None = None) -> Toy:
        """`count` values of a mixture on the stock schedule of latent diffusion."""
        world = mixture(schedule or schedules.scaled_linear(), seed)
        clean, answers = world.draw(count, seed + 1)
        return cls(world, clean, answers, seed)

    @classmethod
    def several(cls, count: int, seeds: Sequence[int] = REPORTED_ON) -> list[Toy]:
        """`count` values in all, as many of each mixture."""
        return [cls.make(max(count // len(seeds), 1), seed) for seed in seeds]

    @property
    def exact(self) -> Tensor:
        """log p(value | caption), (I, K)."""
        return torch.stack([self.model.log_density(self.clean, caption) for caption in range(CAPTIONS)], 1)

    @property
    def bayes(self) -> np.ndarray:
        """1 where the exact likelihood chooses right, (I,)."""
        return (self.exact.argmax(1) == self.answers).double().numpy()

    def rows(self) -> tuple[list[int], Tensor]:
        """Every value with every caption: the item and the caption of each row."""
        items = [item for item in range(len(self.clean)) for _ in range(CAPTIONS)]
        return items, torch.arange(CAPTIONS).repeat(len(self.clean))


def toy_scores(toy: Toy, how: Estimator, *, shared: bool = True) -> Tensor:
    """Scores (I, K) of every caption; `shared=False` gives each caption noise of its own, to show what that costs."""
    items, captions = toy.rows()
    if shared:
        totals = score(toy.model.denoise, toy.clean, toy.model.schedule, toy.model.conditions(captions), items, how,
                       seed=toy.seed, rows=ROWS).totals
        return totals.view(-1, CAPTIONS)
    apart = toy.clean[items]
    return score(toy.model.denoise, apart, toy.model.schedule, toy.model.conditions(captions),
                 list(range(len(apart))), how, seed=toy.seed, rows=ROWS).totals.view(-1, CAPTIONS)


def toy_credit(toy: Toy, how: Estimator, *, shared: bool = True) -> np.ndarray:
    """1 where the estimator chooses right, (I,)."""
    return (toy_scores(toy, how, shared=shared).argmax(1) == toy.answers).double().numpy()


def toy_elimination(toy: Toy, how: Elimination) -> tuple[np.ndarray, np.ndarray]:
    """Credit and mean calls a caption of each value, (I,) each."""
    _, captions = toy.rows()
    choices = choose(toy.model.denoise, toy.clean, toy.model.schedule, toy.model.conditions(captions),
                     [CAPTIONS] * len(toy.clean), how, seed=toy.seed, rows=ROWS)
    credit = np.array([c.credit(int(a)) for c, a in zip(choices, toy.answers, strict=True)])
    return credit, np.array([np.mean(c.calls) for c in choices])


def toy_pairs(count: int, how: Estimator | None, seeds: Sequence[int] = REPORTED_ON) -> tuple[PairResult, PairResult]:
    """Pairs of values of two captions, `count` in all, scored raw and less log p(value); how None takes the exact
    likelihoods."""
    each = [_pair_totals(max(count // len(seeds), 1), how, seed) for seed in seeds]
    totals = torch.cat(each)
    return pair_result(totals[:, :, :2]), pair_result(totals[:, :, :2] - totals[:, :, 2:])


def _pair_totals(count: int, how: Estimator | None, seed: int) -> Tensor:
    """log p of both values of each pair by both captions and by none, (P, 2, 3)."""
    world = mixture(schedules.scaled_linear(), seed)
    generator = torch.Generator().manual_seed(seed + 2)
    captions = torch.stack([torch.randperm(CAPTIONS, generator=generator)[:2] for _ in range(count)])
    clean = world.draw_of(captions.flatten(), generator)  # (2P, 64): values 2p and 2p + 1 of pair p
    told = torch.cat([captions.repeat_interleave(2, 0), torch.full((2 * count, 1), NOTHING)], 1)  # (2P, 3)
    if how is None:
        exact = torch.stack([world.log_density(clean, caption) for caption in range(CAPTIONS + 1)], 1)
        totals = exact.gather(1, told)
    else:
        found = score(world.denoise, clean, world.schedule, world.conditions(told.flatten()),
                      [value for value in range(2 * count) for _ in range(3)], how,
                      numbers=[value // 2 for value in range(2 * count)], seed=seed, rows=ROWS)
        totals = found.totals.view(-1, 3) + found.prior.unsqueeze(1)
    return totals.view(count, 2, 3)


# ---- choosing defaults -------------------------------------------------------------------------------------------


def rules_tried(losses: Sequence[Loss] = ("l2", "log")) -> list[Elimination]:
    """The rules of elimination among which the default was chosen."""
    return [Elimination(loss=loss, least=least, threshold=threshold)
            for loss in losses for least in (4, 6) for threshold in (0.1, 0.05, 0.02)]


def tried(rule: Elimination, toys: Sequence[Toy]) -> tuple[float, float]:
    """Accuracy and mean calls a caption of a rule."""
    found = [toy_elimination(toy, rule) for toy in toys]
    return (float(np.mean(np.concatenate([credit for credit, _ in found]))),
            float(np.mean(np.concatenate([calls for _, calls in found]))))
