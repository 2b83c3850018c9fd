"""The recipe of the shipped ranker, and the experiments around it; what `train` and `reproduce` run."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from diorama.systems.agent_monitor.attacks import Half
from diorama.systems.agent_monitor.config import RECIPE, Recipe
from diorama.systems.agent_monitor.data import (
    BOTH,
    Sample,
    harm_samples,
    rarity_of,
    swaps,
    tabulate,
    world_runs,
    world_samples,
)
from diorama.systems.agent_monitor.ranker import Ranker
from diorama.systems.agent_monitor.train import TrainConfig, train_ranker


def world_training(half: Half, recipe: Recipe, families: Sequence[str] | None = None) -> list[Sample]:
    """Training steps of the tool world: attacked and clean runs, context swaps, requests for harm."""
    first = recipe.seed * 10_000
    played = world_samples(world_runs(half, range(first, first + recipe.seeds), families))
    own, swapped = swaps(played, recipe.seed)
    moved = [replace(sample, source="context_swap") for sample in (*own, *swapped)]
    return [*played, *moved, *harm_samples(range(recipe.harm_runs))]


def fit(samples: Sequence[Sample], recipe: Recipe, *, for_f1: bool = False) -> Ranker:
    """A ranker for some samples; its cut lets the recipe's share of safe bags be flagged, or is where F1 is best."""
    rarity = rarity_of(samples)
    table, names = tabulate(samples, rarity)
    cut = None if for_f1 else recipe.false_stops
    return train_ranker(table, names, rarity, TrainConfig(decay=recipe.decay, false_stops=cut))


def train_shipped(extra: Sequence[Sample] = (), recipe: Recipe = RECIPE) -> Ranker:
    """The ranker that the package ships: every template and family of the tool world, and extra samples if given."""
    return fit([*world_training(BOTH, recipe), *extra], recipe)


def recording_samples(paths: Sequence[Path]) -> list[Sample]:
    """Labelled steps of recorded runs in any known shape, one source a file."""
    from diorama.systems.agent_monitor.data import samples_of
    from diorama.systems.agent_monitor.formats import read_runs

    return [sample for path in paths for sample in samples_of(read_runs(path), path.stem)]
