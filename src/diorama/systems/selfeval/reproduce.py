"""The headline claims in miniature: does a generator's own likelihood rank generators as an examiner of pictures does?

Full: four generators, {pixels, latents} x {bag of words, order-aware text}, are trained alike; each leaves a checkpoint
at a quarter and at the end of training, eight in all. Every checkpoint takes the six tasks by its own likelihood, and
draws pictures that the oracle reads. Quick: the closed-form mixture, and whatever generator is shipped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import numpy as np

from diorama.checkpoints import miniature_names
from diorama.console import note
from diorama.diffusion.image_data import WorldConfig, world_pictures
from diorama.diffusion.image_training import Recipe, load_autoencoder, train_autoencoder, train_text_to_image
from diorama.diffusion.text_to_image import DEFAULT, TextToImage
from diorama.errors import InputError
from diorama.metrics import Interval, average_ranks, bootstrap, bootstrap_statistic, paired_difference, spearman
from diorama.metrics.claims import Arm, Check, Claim, Published
from diorama.systems.selfeval.config import DIFFUSION_CLASSIFIER, METHODS, Elimination, Estimator
from diorama.systems.selfeval.evaluate import PairResult, Result, accuracy, examine, pair_result
from diorama.systems.selfeval.figure import write_accuracy
from diorama.systems.selfeval.generation import generation_credit
from diorama.systems.selfeval.items import Item
from diorama.systems.selfeval.mixture_exam import Toy, toy_credit, toy_elimination, toy_pairs
from diorama.systems.selfeval.pipeline import SelfEval
from diorama.systems.selfeval.world_items import world_items, world_pairs
from diorama.world.options import TASKS

CLAIM = ("a text-to-image model's own likelihood, estimated with few and shared noise draws, says what the model "
         "understands, and ranks generators as an examiner of their pictures does")
PUBLISHED = (
    Published("pairs of generators ordered as humans do", "8 of 10", "counted from table 1"),
    Published("attribute binding, stronger against weaker text encoder (latent)", "54.1 against 51.0", "table 1"),
    Published("attribute binding, latent against pixel (stronger text encoder)", "54.1 against 53.3", "table 1"),
    Published("Winoground image score, chain against Diffusion Classifier", "7.25 against 0", "table 2; chance is 25"),
    Published("network calls a caption", 1000, "section 4: N = 10, T = 100"),
)
ORDERED_TASKS = ("attribute", "spatial", "corruption")
"""Tasks in which the right caption and the wrong ones have the same words, or nearly."""
CALLS = (5, 10, 25, 100)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much each generator learns and how long it is examined."""

    pictures: int = 20_000
    autoencoder_steps: int = 2000
    steps: int = 4000
    items: int = 200
    """Of each task."""
    pairs: int = 200
    drawn: int = 100
    """Pictures of each task that the oracle reads."""
    drawing_steps: int = 25
    chain_items: int = 60
    estimator_items: int = 300
    toy: int = 1200
    calls: Sequence[int] = CALLS
    """At which each estimator is examined."""
    elimination: Elimination = field(default_factory=Elimination)
    recipe: Recipe = field(default_factory=Recipe)


FULL = Sizes()


@dataclass(frozen=True)
class Examined:
    """One checkpoint: its results by its own likelihood, and the oracle's credit of its pictures a task."""

    name: str
    folder: Path
    latent: bool
    ordered: bool
    share: float
    results: list[Result]
    generated: dict[str, np.ndarray]
    pairs: tuple[PairResult, PairResult]


def reproduce(*, quick: bool = False, seeds: Sequence[int] = (0,), out: Path = Path("runs/selfeval-claim"),
              progress: Callable[[str], None] = note, sizes: Sizes = FULL, weights: str = DEFAULT) -> Claim:
    """Measure the claims; quick trains nothing and takes under a minute.

    weights: the generator at hand. Raises CheckpointError for one that is named and not there; the default is left out,
    with a note, as long as it is not shipped.
    """
    began = time.monotonic()
    arms, checks = toy_claims(sizes.toy, CALLS[:3] if quick else CALLS)
    write_accuracy(out / "accuracy.svg", toy_lines(arms), arms[0].metrics["accuracy"].mean)
    if weights != DEFAULT or DEFAULT in miniature_names():
        more = shipped_claims(weights, 8 if quick else 60)
        arms, checks = [*arms, *more[0]], [*checks, *more[1]]
    else:
        progress(f"no generator is shipped as {DEFAULT} yet, so its own claims are left out; train one with `diorama "
                 "selfeval train` and pass its folder with --weights")
    if quick:
        progress("claims 1, 2, 3 and 7 train eight generators of their own: leave --quick out")
    if not quick:
        for seed in seeds:
            found = trained_generators(sizes, seed, out / f"seed{seed}", progress)
            more = generator_claims(found, seed)
            arms, checks = [*arms, *more[0]], [*checks, *more[1]]
            more = estimator_claims(found, sizes, seed)
            arms, checks = [*arms, *more[0]], [*checks, *more[1]]
    return Claim(system="selfeval", claim=CLAIM, published=PUBLISHED, arms=arms, checks=checks,
                 mode="quick" if quick else "full", seconds=time.monotonic() - began)


# ---- the closed-form mixture: a perfect model --------------------------------------------------------------------


def toy_claims(count: int, calls: Sequence[int]) -> tuple[list[Arm], list[Check]]:
    """Claims 4 and 5 where the model is perfect and Bayes' answer is known."""
    toys = Toy.several(count)
    bayes = np.concatenate([toy.bayes for toy in toys])
    arms = [Arm("mixture, exact Bayes", {"accuracy": bootstrap(bayes)})]
    credit: dict[tuple[str, int], np.ndarray] = {}
    for method in METHODS:
        for times in calls:
            credit[method, times] = np.concatenate([toy_credit(toy, Estimator(method=method, times=times))
                                                    for toy in toys])
        arms.append(Arm(f"mixture, {method}", {f"{t} calls": bootstrap(credit[method, t]) for t in calls}))
    stopped, used = (np.concatenate(part) for part in zip(*(toy_elimination(toy, Elimination()) for toy in toys),
                                                          strict=True))
    full = np.concatenate([toy_credit(toy, DIFFUSION_CLASSIFIER) for toy in toys])
    arms.append(Arm(f"mixture, mse at {DIFFUSION_CLASSIFIER.calls} calls", {"accuracy": bootstrap(full)}))
    arms.append(Arm("mixture, mse with elimination", {"accuracy": bootstrap(stopped), "calls": bootstrap(used)}))
    raw, normalised = toy_pairs(count // 2, Estimator(method="path", times=calls[-1]))
    arms.append(Arm("mixture pairs, raw", raw.intervals()))
    arms.append(Arm("mixture pairs, less log p(image)", normalised.intervals()))
    few = calls[1]
    checks = [
        Check(f"mixture: the path estimator with {few} calls is within 3 points of exact Bayes",
              paired_difference(credit["path", few], bayes), bound=0.03, relation="within"),
        Check(f"mixture: the published chain is worse than the path by far, {few} calls (30 points)",
              paired_difference(credit["path", few], credit["chain", few]), bound=0.30),
        Check("mixture: elimination is within 3 points of mse at 100 calls", paired_difference(stopped, full),
              bound=0.03, relation="within"),
        Check("mixture: elimination takes at most 10 calls a caption", bootstrap(used), bound=10, relation="below"),
        Check("mixture pairs: the image score of raw likelihoods is below the chance of 25 %",
              bootstrap(raw.image), bound=0.25, relation="below"),
        Check("mixture pairs: taking log p(image) away gains 50 points of image score",
              paired_difference(normalised.image, raw.image), bound=0.50),
    ]
    return arms, checks


def toy_lines(arms: Sequence[Arm]) -> dict[str, dict[float, float]]:
    """Accuracy by calls of the mixture's arms, for the figure."""
    lines: dict[str, dict[float, float]] = {}
    for arm in arms:
        by_calls = {float(name.split()[0]): i.mean for name, i in arm.metrics.items() if name.endswith(" calls")}
        if by_calls:
            lines[arm.name.removeprefix("mixture, ")] = by_calls
        elif "calls" in arm.metrics:
            lines[arm.name.removeprefix("mixture, ")] = {arm.metrics["calls"].mean: arm.metrics["accuracy"].mean}
    return lines


# ---- the shipped generator ---------------------------------------------------------------------------------------


def shipped_claims(weights: str, each: int) -> tuple[list[Arm], list[Check]]:
    """Accuracy by task of a generator at hand, against the chance of each task."""
    model = TextToImage.from_pretrained(weights, device="cpu")
    results = examine(SelfEval(model), world_items(each, size=model.image_size))
    arms = [Arm(f"{weights}, elimination", {**accuracy(results), "calls": bootstrap([r.calls for r in results])})]
    above = bootstrap([r.credit - r.chance for r in results])
    return arms, [Check(f"{weights}: accuracy above chance over the six tasks", above)]


# ---- eight generators --------------------------------------------------------------------------------------------


def trained_generators(sizes: Sizes, seed: int, out: Path, progress: Callable[[str], None]) -> list[Examined]:
    """Train the four generators, two checkpoints each, and examine all eight on the same items."""
    shown = WorldConfig(scenes=sizes.pictures, size=sizes.recipe.miniature.image_size)
    pictures = world_pictures(out.parent / "pictures", shown)
    recipe = replace(sizes.recipe,
                     autoencoder=replace(sizes.recipe.autoencoder, steps=sizes.autoencoder_steps),
                     network=replace(sizes.recipe.network, steps=sizes.steps))
    if not (out / "autoencoder" / "model").is_dir():
        train_autoencoder(pictures, recipe, out / "autoencoder", seed=seed)
    autoencoder = load_autoencoder(out / "autoencoder" / "model")
    items = world_items(sizes.items, size=recipe.miniature.image_size, seed=seed)
    early = sizes.steps // 4
    found = []
    for latent in (False, True):
        for ordered in (False, True):
            kind = f"{'latent' if latent else 'pixel'}, {'ordered' if ordered else 'bag'}"
            folder = out / kind.replace(", ", "-")
            small = replace(recipe.miniature, latent=latent, text="ordered" if ordered else "bag")
            if not (folder / "model" / "config.json").is_file():
                train_text_to_image(pictures, replace(recipe, miniature=small), folder, autoencoder=autoencoder,
                                    seed=seed, snapshots=(early,))
            for share, name in ((0.25, f"model-{early}"), (1.0, "model")):
                found.append(_examined(folder / name, f"{kind}, {share:.0%}", latent, ordered, share, items, sizes,
                                       seed))
                progress(f"seed {seed}, {found[-1].name}: examined")
    return found


def _examined(folder: Path, name: str, latent: bool, ordered: bool, share: float, items: Sequence[Item],
              sizes: Sizes, seed: int) -> Examined:
    model = TextToImage.from_pretrained(folder)
    exam = SelfEval(model, sizes.elimination, seed=seed)
    generated: dict[str, np.ndarray] = {}
    for task in TASKS:
        captions = [item.options[item.answer] for item in items if item.task == task]
        Random(seed).shuffle(captions)
        generated[task] = generation_credit(model, captions[: sizes.drawn], steps=sizes.drawing_steps, seed=seed)
    raw, normalised = exam.pair_scores(world_pairs(sizes.pairs, size=model.image_size, seed=seed))
    return Examined(name, folder, latent, ordered, share, examine(exam, items), generated,
                    (pair_result(raw), pair_result(normalised)))


def generator_claims(found: Sequence[Examined], seed: int) -> tuple[list[Arm], list[Check]]:
    """Claims 1, 2, 3, 5 and 7 on the eight checkpoints."""
    arms = [Arm(f"{one.name} (seed {seed})", {
        **{f"likelihood: {task}": interval for task, interval in accuracy(one.results).items()},
        **{f"oracle: {task}": bootstrap(credit) for task, credit in one.generated.items()},
        **{f"pairs raw: {name}": interval for name, interval in one.pairs[0].intervals().items()},
        **{f"pairs PMI: {name}": interval for name, interval in one.pairs[1].intervals().items()},
    }) for one in found]
    last = [one for one in found if one.share == 1.0]
    ordered, bag = ([one for one in last if one.ordered == kind] for kind in (True, False))
    checks = [Check(f"ranks: Spearman over checkpoints and tasks, likelihood against oracle (seed {seed})",
                    pooled_rank_correlation(found), bound=0.7)]
    for task in ORDERED_TASKS:
        checks.append(Check(f"order-aware text beats the bag of words on {task} (seed {seed})",
                            paired_difference(_credit(ordered, task), _credit(bag, task))))
    for task in ("attribute", "corruption"):
        checks.append(Check(f"the bag of words is at chance on {task}, by ties (seed {seed})",
                            bootstrap(_credit(bag, task) - _chance(bag, task)), bound=0.05, relation="within"))
    latent, pixel = ([one for one in last if one.latent == kind] for kind in (True, False))
    checks.append(Check(f"latent beats pixel over all tasks (seed {seed})",
                        paired_difference(_credit(latent), _credit(pixel))))
    best = max(ordered, key=lambda one: float(_credit([one]).mean()))
    checks.append(Check(f"PMI gains image score over raw likelihood, {best.name} (seed {seed})",
                        paired_difference(best.pairs[1].image, best.pairs[0].image)))
    weak, others = ("count", "spatial"), [task for task in TASKS if task not in ("count", "spatial")]
    checks.append(Check(f"count and spatial are the weakest over chance, {best.name} (seed {seed})",
                        _between(_over_chance(best, others), _over_chance(best, weak))))
    return arms, checks


def pooled_rank_correlation(found: Sequence[Examined]) -> Interval:
    """Spearman between likelihood accuracy and oracle credit, ranked within each task, over checkpoints and tasks.

    The interval is a bootstrap over checkpoints, of whole columns of tasks; NaN where one side never varies.
    """
    own = np.array([[accuracy(one.results)[task].mean for task in TASKS] for one in found])
    drawn = np.array([[one.generated[task].mean() for task in TASKS] for one in found])

    def statistic(rows: np.ndarray) -> float:
        chosen = rows.astype(int)
        ranked = [np.concatenate([average_ranks(column) for column in values[chosen].T]) for values in (own, drawn)]
        return spearman(ranked[0], ranked[1])

    try:
        return bootstrap_statistic(statistic, np.arange(len(found), dtype=float), samples=1000)
    except InputError:
        return Interval(math.nan, math.nan, math.nan, len(found))


def _credit(several: Sequence[Examined], task: str | None = None) -> np.ndarray:
    return np.array([r.credit for one in several for r in one.results if task in (None, r.task)])


def _chance(several: Sequence[Examined], task: str) -> np.ndarray:
    return np.array([r.chance for one in several for r in one.results if r.task == task])


def _over_chance(one: Examined, tasks: Sequence[str]) -> np.ndarray:
    """Credit over chance as a share of what there is above it."""
    return np.array([(r.credit - r.chance) / (1 - r.chance) for r in one.results if r.task in tasks])


def _between(a: np.ndarray, b: np.ndarray) -> Interval:
    """The difference of two means over different items, with a bootstrap over both."""
    generator = np.random.default_rng(0)
    drawn = [generator.choice(a, len(a)).mean() - generator.choice(b, len(b)).mean() for _ in range(2000)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Interval(float(a.mean() - b.mean()), float(low), float(high), len(a) + len(b))


# ---- estimators on a trained generator ---------------------------------------------------------------------------


def estimator_claims(found: Sequence[Examined], sizes: Sizes, seed: int) -> tuple[list[Arm], list[Check]]:
    """Claim 4 on the order-aware latent generator at the end of its training."""
    one = next(one for one in found if one.latent and one.ordered and one.share == 1.0)
    model = TextToImage.from_pretrained(one.folder)
    items = world_items(sizes.estimator_items // len(TASKS), size=model.image_size, seed=seed + 1)
    few = [item for place, item in enumerate(items) if place % max(len(items) // sizes.chain_items, 1) == 0]
    credit: dict[tuple[str, int], np.ndarray] = {}
    for method in ("path", "line", "mse"):
        for times in sizes.calls:
            credit[method, times] = _credit_of(model, items, Estimator(method=method, times=times), seed)
    _, some, many, most = sizes.calls
    credit["chain", many] = _credit_of(model, few, Estimator(method="chain", times=many), seed)
    path_on_few = _credit_of(model, few, Estimator(method="path", times=many), seed)
    stopped = examine(SelfEval(model, sizes.elimination, seed=seed), items)
    stopped_credit, calls = np.array([r.credit for r in stopped]), [r.calls for r in stopped]
    arms = [Arm(f"{one.name}, {method} (seed {seed})",
                {f"{t} calls": bootstrap(values) for (m, t), values in credit.items() if m == method})
            for method in METHODS]
    arms.append(Arm(f"{one.name}, mse with elimination (seed {seed})",
                    {"accuracy": bootstrap(stopped_credit), "calls": bootstrap(calls)}))
    return arms, [
        Check(f"the published chain is worse than the path, {many} times, the same items (seed {seed})",
              paired_difference(path_on_few, credit["chain", many])),
        Check(f"elimination is no worse than {most} calls (margin 3 points, seed {seed})",
              paired_difference(stopped_credit, credit["mse", most]), bound=-0.03),
        Check(f"elimination takes at most 15 calls a caption (seed {seed})", bootstrap(calls), bound=15,
              relation="below"),
        Check(f"path is no worse than mse at {some} calls (margin 3 points, seed {seed})",
              paired_difference(credit["path", some], credit["mse", some]), bound=-0.03),
    ]


def _credit_of(model: TextToImage, items: Sequence[Item], how: Estimator, seed: int) -> np.ndarray:
    return np.array([r.credit for r in examine(SelfEval(model, how, seed=seed), items)])
