"""Times SelfEval's scoring against Diffusion Classifier's procedure on the same network, items, captions and noise.

    python benchmarks/selfeval.py [--quick] [--json] [--weights NAME]
    python benchmarks/selfeval.py --choose

The peer (arXiv 2303.16203) is written here from its description: one item at a time, an even grid of times, one noise a
time shared by the captions of the item, a mean error a caption over a fixed number of calls, in stages that keep fewer
and fewer captions. Equal calls: items a second. Equal accuracy: calls on the closed-form mixture, time where each of
its calls also costs one of the miniature's network, and both on a trained generator where --weights names one. Sides
are run in turn; times are medians of processor time, which a busy machine does not change much.

--choose prints what the rules of elimination give on the twelve mixtures on which the default was chosen; the rows
above are of six others.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diorama.checkpoints import miniature_names
from diorama.diffusion.parametrisations import Denoised
from diorama.diffusion.schedules import Schedule
from diorama.diffusion.text import Condition
from diorama.diffusion.text_to_image import DEFAULT, MiniatureConfig, TextToImage, build_miniature
from diorama.metrics.claims import device_name, package_versions
from diorama.systems.selfeval.choice import Choice, Remember, choose, nothing_remembered
from diorama.systems.selfeval.config import DIFFUSION_CLASSIFIER, Elimination, Estimator
from diorama.systems.selfeval.estimators import Denoise, examine
from diorama.systems.selfeval.items import Item
from diorama.systems.selfeval.mixture import CAPTIONS
from diorama.systems.selfeval.mixture_exam import CHOSEN_ON, Toy, rules_tried, toy_credit, tried
from diorama.systems.selfeval.world_items import world_items

PEER = "Diffusion Classifier's procedure, written here"
BATCH = 32
"""Rows at once in the peer's script."""


@dataclass(frozen=True)
class Row:
    what: str
    ours: float
    theirs: float
    unit: str
    ratio: float
    goal: float | None
    peer: str = PEER


@dataclass(frozen=True)
class Work:
    """Items with their captions: latents (I, ...), a condition of all captions in order, how many an item has."""

    denoise: Denoise
    schedule: Schedule
    clean: Tensor
    condition: Condition
    counts: list[int]
    answers: list[int]
    remember: Remember = nothing_remembered
    """Around our side's calls: what captions need of the network is computed once. The peer computes it every time."""
    seed: int = 0


@torch.no_grad()
def peer_errors(work: Work, item: int, captions: Sequence[int], trials: Sequence[int], index: Tensor,
                noise: Tensor) -> dict[int, list[float]]:
    """The mean error of each caption at each trial: rows are (caption, trial) pairs of one item, 32 at a time."""
    first = sum(work.counts[:item])
    pairs = [(caption, trial) for caption in captions for trial in trials]
    found: dict[int, list[float]] = {caption: [] for caption in captions}
    for start in range(0, len(pairs), BATCH):
        some = pairs[start : start + BATCH]
        which = [trial for _, trial in some]
        times, eps = index[which], noise[which]
        clean = work.clean[item].expand(len(some), *work.clean.shape[1:])
        signal, spread = work.schedule.at(times, clean)
        said = work.denoise(signal * clean + spread * eps, times, work.condition.rows([first + c for c, _ in some]))
        errors = (eps - said.eps).pow(2).flatten(1).mean(1)
        for (caption, _), error in zip(some, errors.tolist(), strict=True):
            found[caption].append(error)
    return found


def peer_choose(work: Work, stages: Sequence[tuple[int, int]], index: Sequence[Tensor],
                noise: Sequence[Tensor]) -> tuple[list[int], list[float]]:
    """Its choice for each item and the calls a caption: stages of (trials in all, captions kept)."""
    best, calls = [], []
    for item, count in enumerate(work.counts):
        errors: dict[int, list[float]] = {caption: [] for caption in range(count)}
        left, done, spent = list(range(count)), 0, 0
        for trials, keep in stages:
            new = peer_errors(work, item, left, range(done, trials), index[item], noise[item])
            spent += len(left) * (trials - done)
            for caption, values in new.items():
                errors[caption] += values
            left, done = sorted(left, key=lambda c: float(np.mean(errors[c])))[:keep], trials
        best.append(left[0])
        calls.append(spent / count)
    return best, calls


def shared_draws(work: Work, calls: int) -> tuple[list[Tensor], list[Tensor]]:
    """The times and noise that our `mse` estimator would use for each item, for the peer to use too."""
    made = examine(work.clean, work.schedule, Estimator(method="mse", times=calls), seed=work.seed)
    return [made.kept] * len(work.clean), list(made.states.eps)


def ours_choose(work: Work, how: Estimator | Elimination, rows: int) -> list[Choice]:
    """Our verdicts."""
    return choose(work.denoise, work.clean, work.schedule, work.condition, work.counts, how, rows=rows, seed=work.seed,
                  remember=work.remember)


def in_turn(ours: Callable[[], object], theirs: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median processor seconds of both sides, run in turn."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for place, side in enumerate((ours, theirs)):
            began = time.process_time()
            side()
            seconds[place].append(time.process_time() - began)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


# ---- rows --------------------------------------------------------------------------------------------------------


def equal_calls(work: Work, calls: int, repeats: int, name: str, rows: int) -> Row:
    """Items a second where both spend the same calls; both must choose the same captions first."""
    index, noise = shared_draws(work, calls)
    how = Estimator(method="mse", times=calls)

    def ours() -> list[int]:
        return [c.best[0] for c in ours_choose(work, how, rows)]

    def theirs() -> list[int]:
        return peer_choose(work, [(calls, 1)], index, noise)[0]

    if ours() != theirs():
        raise RuntimeError("The two sides chose different captions on the same noise, so nothing was timed.")
    fast, slow = in_turn(ours, theirs, repeats)
    count = len(work.counts)
    return Row(f"items a second at {calls} calls a caption, {name}", count / fast, count / slow, "items/s",
               slow / fast, None)


def equal_accuracy(works: Sequence[Work], repeats: int, name: str, rows: int) -> list[Row]:
    """Calls, time and accuracy: elimination against 100 calls a caption."""
    draws = [shared_draws(work, 100) for work in works]
    found: list[Choice] = []
    chosen: list[int] = []
    spent: list[float] = []

    def ours() -> None:
        found[:] = [choice for work in works for choice in ours_choose(work, Elimination(), rows)]

    def theirs() -> None:
        both = [peer_choose(work, [(100, 1)], *own) for work, own in zip(works, draws, strict=True)]
        chosen[:] = [best for one, _ in both for best in one]
        spent[:] = [calls for _, several in both for calls in several]

    fast, slow = in_turn(ours, theirs, repeats)
    answers = [answer for work in works for answer in work.answers]
    right = np.mean([c.credit(a) for c, a in zip(found, answers, strict=True)])
    theirs_right = np.mean([c == a for c, a in zip(chosen, answers, strict=True)])
    calls = float(np.mean([np.mean(c.calls) for c in found]))
    return [
        Row(f"accuracy, {name}", float(right), float(theirs_right), "share", float(right / max(theirs_right, 1e-9)),
            None),
        Row(f"network calls a caption, {name}", calls, float(np.mean(spent)), "calls", float(np.mean(spent)) / calls,
            10.0),
        Row(f"time of all items, {name}", fast, slow, "s", slow / fast, 8.0),
    ]


def mixture_works(count: int) -> list[Work]:
    """Closed-form mixtures, `count` values in all: perfect models of four captions."""
    return [Work(toy.model.denoise, toy.model.schedule, toy.clean,
                 toy.model.conditions(torch.arange(CAPTIONS).repeat(len(toy.clean))), [CAPTIONS] * len(toy.clean),
                 toy.answers.tolist(), seed=toy.seed) for toy in Toy.several(count)]


def priced(work: Work, model: TextToImage) -> Work:
    """The same work with the same answers, each row of a call costing a row of the miniature's network as well."""
    told = model.encode_text(["a small red cube is left of a large blue sphere"])

    def denoise(x: Tensor, index: Tensor, condition: Condition) -> Denoised:
        model.denoiser(torch.zeros(len(x), *model.latent_shape), index, told.rows([0] * len(x)))
        return work.denoise(x, index, condition)

    return replace(work, denoise=denoise)


def generator_work(model: TextToImage, items: Sequence[Item]) -> Work:
    """The world's items in front of a generator."""
    clean = torch.cat([model.to_latents(torch.from_numpy(np.array(item.image)).unsqueeze(0)) for item in items])
    condition = model.encode_text([option for item in items for option in item.options])
    return Work(model.denoiser, model.schedule, clean, condition, [len(item.options) for item in items],
                [item.answer for item in items], model.text_once)


def rows(quick: bool, weights: str) -> list[Row]:
    """All rows; without a trained generator the network is a miniature of random weights, whose speed counts."""
    repeats = 3 if quick else 5
    trained = weights in miniature_names() or Path(weights).is_dir()
    torch.manual_seed(0)
    model = TextToImage.from_pretrained(weights, device="cpu") if trained else build_miniature(
        MiniatureConfig(), device="cpu")
    items = world_items(1 if quick else 4, size=model.image_size)
    work = generator_work(model, items)
    name = weights if trained else "the miniature's network with random weights"
    found = [equal_calls(work, 4 if quick else 10, repeats, name, rows=128)]
    found += equal_accuracy(mixture_works(600 if quick else 2400), 1, "closed-form mixture", rows=1024)[:2]
    bare = model if not trained else build_miniature(MiniatureConfig(), device="cpu")
    costly = [priced(work, bare) for work in mixture_works(12 if quick else 60)]
    found += equal_accuracy(costly, 1, "closed-form mixture at the price of the miniature's network", rows=128)
    if trained:
        more = generator_work(model, world_items(2 if quick else 20, size=model.image_size))
        found += equal_accuracy([more], 1 if quick else 3, name, rows=128)
    return found


def choose_default() -> None:
    """Print accuracy and calls of the rules of elimination on the mixtures that are for choosing."""
    toys = Toy.several(4800, CHOSEN_ON)
    full = np.concatenate([toy_credit(toy, DIFFUSION_CLASSIFIER) for toy in toys]).mean()
    print(f"mse at {DIFFUSION_CLASSIFIER.calls} calls: accuracy {full:.4f}")
    for rule in rules_tried():
        accuracy, calls = tried(rule, toys)
        kept = "  (the default)" if rule == Elimination() else ""
        print(f"loss {rule.loss:3}, p < {rule.threshold:<4}, {rule.least} to {rule.most} calls: accuracy "
              f"{accuracy:.4f}, {calls:.2f} calls{kept}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--weights", default=DEFAULT, help="a trained generator: a miniature's name or a folder")
    parser.add_argument("--choose", action="store_true", help="what the default of elimination was chosen by")
    options = parser.parse_args(arguments)
    if options.choose:
        choose_default()
        return 0
    found = rows(options.quick, options.weights)
    if options.json:
        print(json.dumps({"system": "selfeval", "rows": [asdict(row) for row in found], "machine": device_name("cpu"),
                          "versions": package_versions()}))
        return 0
    for row in found:
        goal = "" if row.goal is None else f"  (goal {row.goal:g}x)"
        print(f"{row.what}: ours {row.ours:.4g}, theirs {row.theirs:.4g} {row.unit}, {row.ratio:.2f}x{goal}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
