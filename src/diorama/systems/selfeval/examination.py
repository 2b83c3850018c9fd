"""What the commands share: a generator examined on the world or on a file, two of them compared, and the tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from diorama.console import note
from diorama.diffusion.text_to_image import TextToImage
from diorama.errors import InputError
from diorama.systems.selfeval.confidence import Calibration, calibrate
from diorama.systems.selfeval.config import Elimination, Estimator
from diorama.systems.selfeval.evaluate import (
    PairResult,
    Result,
    compare,
    pair_result,
    read_results,
    results_of,
    summary,
    table,
    write_results,
)
from diorama.systems.selfeval.items import Item, by_task, is_pairs, read_items, read_pairs
from diorama.systems.selfeval.pipeline import SelfEval, described
from diorama.systems.selfeval.world_items import world_items, world_pairs
from diorama.world.options import TASKS, Task

__all__ = ["compare_two", "comparison_table", "examine_pairs", "examine_tasks", "is_pairs", "load"]

CHANCE = {"text": 0.25, "image": 0.25, "group": 1 / 6}
"""Of Winoground's scores (arXiv 2204.03162, section 4)."""


@dataclass(frozen=True)
class Examined:
    """Results by item, and a calibration fitted on half of them and judged on the other half."""

    results: list[Result]
    calibration: Calibration

    def write(self, folder: Path) -> None:
        """results.jsonl and calibration.json."""
        folder.mkdir(parents=True, exist_ok=True)
        write_results(folder / "results.jsonl", self.results)
        self.calibration.save(folder / "calibration.json")

    def table(self) -> str:
        """Both as text."""
        fitted = self.calibration
        return (f"{table(summary(self.results))}\ntemperature {fitted.temperature:.4g} ({fitted.how}); "
                f"calibration error {fitted.calibration_error:.1%} on the items it was not fitted on")

    def to_json(self) -> dict[str, Any]:
        """Both as plain values."""
        return {"tasks": summary(self.results), "calibration": vars(self.calibration)}


@dataclass(frozen=True)
class ExaminedPairs:
    """Winoground's scores by raw likelihood and by pointwise mutual information."""

    raw: PairResult
    normalised: PairResult

    def to_json(self) -> dict[str, Any]:
        """Shares with intervals."""
        return {name: {score: {"share": i.mean, "low": i.low, "high": i.high, "n": i.n, "chance": CHANCE[score]}
                       for score, i in result.intervals().items()}
                for name, result in (("raw", self.raw), ("normalised", self.normalised))}

    def table(self) -> str:
        """The same as text."""
        lines = [f"{'score':8} {'chance':>6}  {'raw likelihood':>24}  {'less log p(image)':>24}"]
        for score, chance in CHANCE.items():
            cells = [f"{i.mean:.1%} ({i.low:.1%} - {i.high:.1%})"
                     for i in (self.raw.intervals()[score], self.normalised.intervals()[score])]
            lines.append(f"{score:8} {chance:6.1%}  {cells[0]:>24}  {cells[1]:>24}")
        return "\n".join(lines)


def load(model: str, how: Estimator | Elimination, device: str, seed: int) -> SelfEval:
    """The examiner of a checkpoint."""
    return SelfEval.from_pretrained(model, how, device=device, seed=seed)


def examine_tasks(exam: SelfEval, file: Path | None, images: Path | None, tasks: Sequence[str] | None, each: int,
                  seed: int) -> Examined:
    """Items of a file, or of the world; a temperature is fitted on every other item and its error measured on the
    rest."""
    items = _items(exam, file, images, tasks, each, seed)
    verdicts = exam.examine(items)
    for said in dict.fromkeys(remark for item in items for remark in exam.remarks(item.options)):
        note(said)
    fitted = calibrate([v.choice for v in verdicts], [item.answer for item in items], described(exam.how))
    return Examined(results_of(items, verdicts), fitted)


def _items(exam: SelfEval, file: Path | None, images: Path | None, tasks: Sequence[str] | None, each: int,
           seed: int) -> list[Item]:
    if file is not None:
        found = read_items(file, images)
        return by_task(found, tasks) if tasks else found
    unknown = [task for task in tasks or () if task not in TASKS]
    if unknown:
        raise InputError(f"There is no task {', '.join(unknown)}. Pass some of {', '.join(TASKS)}, or pairs alone.")
    size = cast(TextToImage, exam.model).image_size
    return world_items(each, tasks=cast(Sequence[Task], tasks or TASKS), size=size, seed=seed)


def examine_pairs(exam: SelfEval, file: Path | None, images: Path | None, each: int, seed: int) -> ExaminedPairs:
    """Pairs of a file, or of the world."""
    size = cast(TextToImage, exam.model).image_size
    pairs = read_pairs(file, images) if file is not None else world_pairs(each, size=size, seed=seed)
    raw, normalised = exam.pair_scores(pairs)
    return ExaminedPairs(pair_result(raw), pair_result(normalised))


def compare_two(first: str, second: str, items: Path | None, images: Path | None, each: int, device: str,
                seed: int) -> dict[str, dict[str, float]]:
    """Paired differences of two checkpoints, or of two files of results."""
    results = []
    for name in (first, second):
        if name.endswith(".jsonl"):
            results.append(read_results(Path(name)))
            continue
        exam = load(name, Elimination(), device, seed)
        results.append(results_of(found := _items(exam, items, images, None, each, seed), exam.examine(found)))
    return compare(results[0], results[1])


def comparison_table(rows: dict[str, dict[str, float]]) -> str:
    """Differences as text."""
    lines = [f"{'task':12} {'difference':>10}  {'95 %':>17}  {'p':>6}  {'n':>5}"]
    for task, row in rows.items():
        interval = f"{row['low']:+.1%} - {row['high']:+.1%}"
        lines.append(f"{task:12} {row['difference']:+10.1%}  {interval:>17}  {row['p']:6.3f}  {row['n']:5.0f}")
    return "\n".join(lines)
