"""The recipe of the shipped ranker, and the experiments around it; what `train` and `reproduce` run."""

from collections.abc import Sequence
from pathlib import Path

from diorama.systems.agent_monitor.config import RECIPE, Recipe
from diorama.systems.agent_monitor.data import (
    ALL_FAMILIES,
    ALL_TEMPLATES,
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


def world_training(templates: Sequence[str], families: Sequence[str], recipe: Recipe) -> list[Sample]:
    """Training steps of the tool world: attacked and clean runs, context swaps, requests for harm."""
    played = world_samples(
        world_runs(templates, families, range(recipe.seed * 10_000, recipe.seed * 10_000 + recipe.seeds))
    )
    own, swapped = swaps(played, recipe.seed)
    moved = [Sample(s.step, s.bag, s.label, s.group, "context_swap", s.kind) for s in (*own, *swapped)]
    return [*played, *moved, *harm_samples(range(recipe.harm_runs))]


def fit(
    samples: Sequence[Sample], recipe: Recipe, *, false_stops: float | None = -1.0, word_decay: float = 0.0
) -> Ranker:
    """A ranker for some samples; false_stops None sets the cut at the best F1 of held-out groups."""
    rarity = rarity_of(samples)
    table, names = tabulate(samples, rarity, with_words=word_decay > 0)
    cut = recipe.false_stops if false_stops == -1.0 else false_stops
    config = TrainConfig(
        members=recipe.members, steps=recipe.steps, seed=recipe.seed, false_stops=cut, word_decay=word_decay
    )
    return train_ranker(table, names, rarity, config)


def train_shipped(extra: Sequence[Sample] = (), recipe: Recipe = RECIPE) -> Ranker:
    """The ranker that the package ships: every template and family of the tool world, and extra samples if given."""
    return fit([*world_training(ALL_TEMPLATES, ALL_FAMILIES, recipe), *extra], recipe)


def recording_samples(paths: Sequence[Path]) -> list[Sample]:
    """Labelled steps of recorded runs in any known shape, one source a file."""
    from diorama.systems.agent_monitor.data import samples_of
    from diorama.systems.agent_monitor.formats import read_runs

    return [sample for path in paths for sample in samples_of(read_runs(path), path.stem)]
