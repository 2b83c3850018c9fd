"""`diorama selfeval ...`: a function a verb. Torch is imported when a verb runs, not before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cyclopts import App, Parameter

from diorama.console import Common, emit, note
from diorama.errors import InputError
from diorama.systems.selfeval.config import Elimination, Estimator, Method

if TYPE_CHECKING:
    from diorama.systems.selfeval.pipeline import Verdict

app = App(name="selfeval", help="Examines a text-to-image model by its own likelihood (SelfEval, arXiv 2311.10708).")

DEFAULT = "text-to-image-mini"
COMMON = Common()
Way = Literal["elimination", "chain", "path", "line", "mse"]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class How:
    """The flags that say how a likelihood is estimated, the same in every command that asks for one."""

    method: Way = "elimination"
    """elimination: mse until one caption is left. The others take a fixed number of network calls."""
    times: int | None = None
    """Times of the schedule, for a fixed number of calls (default 25)."""
    draws: int = 1
    """Noise draws at every time."""
    threshold: float = 0.02
    """p of the paired test below which elimination drops a caption."""
    least: int = 4
    """Calls a caption before the first test."""
    most: int = 50
    """Calls a caption at most."""

    def settings(self) -> Estimator | Elimination:
        """The flags as settings; InputError for flags that the chosen method does not take."""
        if self.method == "elimination":
            if self.times is not None or self.draws != 1:
                raise InputError("--times and --draws fix the number of calls, and elimination decides it itself. "
                                 "Pass --method path, line, mse or chain with them, or --most.")
            return Elimination(threshold=self.threshold, least=self.least, most=self.most)
        method: Method = self.method
        return Estimator(method=method, times=25 if self.times is None else self.times, draws=self.draws)


HOW = How()


def need_two(captions: Sequence[str], of: str) -> None:
    """InputError for captions of a picture or a clip among which there is nothing to choose."""
    if len(captions) < 2:
        raise InputError(f"{len(captions)} caption was given, and a choice needs two. Pass more after the {of}.")


def judged(verdict: Verdict) -> str:
    """A verdict in words: a line a caption, and the best."""
    lines = [f"{p:7.1%}  {calls:4d} calls  {caption}" for caption, p, calls in
             zip(verdict.captions, verdict.probabilities, verdict.calls, strict=True)]
    kind = "decided" if verdict.choice.decided else "undecided after all calls"
    return "\n".join([*lines, f"best: {' = '.join(verdict.best)}  (confidence {verdict.confidence:.1%}, {kind})"])


@app.command
def score(
    picture: Path,
    *captions: str,
    model: str = DEFAULT,
    how: How = HOW,
    calibration: Path | None = None,
    common: Common = COMMON,
) -> int:
    """Which of some captions a generator holds likeliest for a picture: probabilities, calls, confidence.

    Parameters
    ----------
    model
        A shipped miniature, a folder, or a hub id in diffusers' layout.
    calibration
        A calibration.json that `evaluate` left; by default the checkpoint's own.
    """
    settings = how.settings()
    need_two(captions, "picture")
    if common.dry_run:
        emit({"model": model, "picture": str(picture), "captions": list(captions)},
             f"would load {model} and score {len(captions)} captions for {picture}", common)
        return 0
    from diorama.systems.selfeval.confidence import Calibration
    from diorama.systems.selfeval.pipeline import SelfEval

    exam = SelfEval.from_pretrained(model, settings, calibration=Calibration.load(calibration) if calibration else None,
                                    device=common.device, seed=common.seed)
    verdict = exam.score(picture, captions)
    for said in verdict.notes:
        note(said)
    if not verdict.calibrated:
        note("no temperature was fitted for this model and method, so the probabilities overstate confidence")
    emit({"model": model, **verdict.to_json()}, judged(verdict), common)
    return 0


@app.command
def evaluate(
    *,
    model: str = DEFAULT,
    tasks: str | None = None,
    items: Path | None = None,
    images: Path | None = None,
    each: int = 100,
    how: How = HOW,
    common: Common = COMMON,
) -> int:
    """Accuracy by task with intervals and chance, on the world or on a file of items or pairs.

    Pairs always take a fixed number of calls.

    Parameters
    ----------
    model
        A shipped miniature, a folder, or a hub id in diffusers' layout.
    tasks
        Comma-separated: attribute, color, count, shape, spatial, corruption; pairs for Winoground-style pairs.
    items
        JSON lines of items or pairs, or a file of ARO, CLEVR, TIFA or Winoground; default: the world.
    images
        Folder of the items' pictures (default: beside the file).
    each
        Items of each task, on the world.
    """
    settings = how.settings()
    wanted = [task.strip() for task in tasks.split(",")] if tasks else None
    if items is not None and not items.is_file():
        raise InputError(f"There is no file {items}. Pass JSON lines of items, or leave --items out for the world.")
    if common.dry_run:
        emit({"model": model, "items": str(items or "world")}, f"would examine {model} on {items or 'the world'}",
             common)
        return 0
    from diorama.systems.selfeval import examination

    exam = examination.load(model, settings, common.device, common.seed)
    if wanted == ["pairs"] or (items is not None and examination.is_pairs(items)):
        found = examination.examine_pairs(exam, items, images, each, common.seed)
        emit({"model": model, **found.to_json()}, found.table(), common)
        return 0
    examined = examination.examine_tasks(exam, items, images, wanted, each, common.seed)
    if common.out is not None:
        examined.write(common.out)
    emit({"model": model, **examined.to_json()}, examined.table(), common)
    return 0


@app.command
def compare(
    first: str,
    second: str,
    *,
    items: Path | None = None,
    images: Path | None = None,
    each: int = 100,
    common: Common = COMMON,
) -> int:
    """Whether one checkpoint understands more than another: paired differences on the same items.

    Parameters
    ----------
    first
        A checkpoint, or the results.jsonl that `evaluate --out` wrote of one.
    second
        The other, in the same form.
    items
        A file of items to examine both on; default: the world.
    images
        Folder of the items' pictures (default: beside the file).
    each
        Items of each task, on the world.
    """
    if common.dry_run:
        emit({"first": first, "second": second}, f"would compare {first} with {second}", common)
        return 0
    from diorama.systems.selfeval import examination

    rows = examination.compare_two(first, second, items, images, each, common.device, common.seed)
    emit({"first": first, "second": second, "tasks": rows}, examination.comparison_table(rows), common)
    return 0


@app.command
def train(
    *,
    data: str = "world",
    init: str | None = None,
    steps: int | None = None,
    batch: int | None = None,
    text: Literal["ordered", "bag"] = "ordered",
    space: Literal["latent", "pixel"] = "latent",
    scenes: int = 40_000,
    pictures: Path | None = None,
    common: Common = COMMON,
) -> int:
    """Train a text-to-image miniature to examine (or to draw with); resumes where it stopped.

    Parameters
    ----------
    data
        "world", or a folder of pictures with a text file of captions beside each.
    init
        The model to go on from: a folder, a miniature's name or a hub id; default: a new miniature.
    steps
        Optimizer steps of text encoder and network (default: the recipe's).
    batch
        Pictures a step (default: the recipe's).
    text
        ordered: a transformer over words. bag: the mean of their embeddings, blind to order.
    space
        latent: diffuse an autoencoder's latents. pixel: diffuse pixels.
    scenes
        Pictures of the world to learn from.
    pictures
        Where the world's pictures are kept; default: OUT/pictures.
    """
    out = common.folder("runs/text-to-image")
    if common.dry_run:
        emit({"data": data, "out": str(out), "text": text, "space": space},
             f"would train a {space} miniature with {text} text on {data} into {out}", common)
        return 0
    from diorama.systems.selfeval.training import train_miniature

    folder = train_miniature(out, data=data, init=init, steps=steps, batch=batch, text=text, latent=space == "latent",
                             scenes=scenes, pictures=pictures, seed=common.seed, device=common.device)
    emit({"model": str(folder)}, f"the model is in {folder}", common)
    return 0


@app.command
def finish(source: Path, *, each: int = 200, guidance: float = 5.0, common: Common = COMMON) -> int:
    """Make a trained miniature ready to ship: half precision, measured by the oracle and by itself, with its card.

    Parameters
    ----------
    source
        The model folder that `train` left.
    each
        Held-out captions, and items of every task.
    guidance
        Of the pictures that the oracle reads.
    """
    out = common.folder("text-to-image-mini")
    if common.dry_run:
        emit({"source": str(source), "out": str(out)}, f"would measure {source} and write it to {out}", common)
        return 0
    from diorama.systems.selfeval.finish import finish as write

    measured = write(source, out, each=each, guidance=guidance, seed=common.seed, device=common.device, progress=note)
    emit(measured, (out / "README.md").read_text(encoding="utf-8"), common)
    return 0


@app.command
def reproduce(*, quick: bool = False, seeds: int = 1, weights: str = DEFAULT, common: Common = COMMON) -> int:
    """Re-run the headline claims in miniature: ranks of generators, encoders, estimators, pairs.

    Parameters
    ----------
    quick
        Only what takes no training: the closed-form mixture and the shipped generator, in a minute.
    seeds
        Trainings of every generator.
    weights
        The generator at hand.
    """
    from diorama.metrics.claims import report, seeds_from

    drawn = seeds_from(common.seed, seeds)
    out = common.folder("runs/selfeval-claim")
    if common.dry_run:
        emit({"quick": quick, "seeds": seeds, "out": str(out)}, f"would re-run the claims into {out}", common)
        return 0
    from diorama.systems.selfeval.reproduce import reproduce as run_claim

    return report(run_claim(quick=quick, seeds=drawn, out=out, weights=weights), common)
