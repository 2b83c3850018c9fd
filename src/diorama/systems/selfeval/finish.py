"""A trained text-to-image miniature made ready to ship: half precision, what the oracle reads in its pictures, its own
exam with a fitted temperature, and the card that says all of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from diorama.checkpoints import CARD, write_text
from diorama.diffusion.text_to_image import TextToImage
from diorama.errors import CheckpointError
from diorama.metrics import Interval, bootstrap
from diorama.systems.selfeval.confidence import calibrate
from diorama.systems.selfeval.config import Elimination
from diorama.systems.selfeval.evaluate import accuracy, results_of
from diorama.systems.selfeval.generation import Read, generation_credit
from diorama.systems.selfeval.pipeline import CALIBRATION, SelfEval, described
from diorama.systems.selfeval.world_items import world_items
from diorama.world.scene import COLORS
from diorama.world.vocabulary import split_words

GOALS = {"one object, color and shape right": 0.90, "two objects, both bound": 0.75}
MEASURED = "measured.json"


def finish(source: Path, out: Path, *, each: int = 200, guidance: float = 5.0, seed: int = 0, device: str = "auto",
           read: Read | None = None, progress: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Write the model in `source` to `out` as it is shipped; the numbers on its card, also in measured.json.

    each: held-out captions, and items of every task. read: stands in for the world's oracle. Raises CheckpointError
    for a folder without the card that training left.
    """
    if not (source / CARD).is_file():
        raise CheckpointError(f"{source} has no {CARD}, so how it was trained is not known. "
                              "Pass the model folder that `diorama selfeval train` left.")
    model = TextToImage.from_pretrained(source, device=device)
    measured: dict[str, Interval] = {}
    for name, captions in held_out(each, model.image_size, seed).items():
        measured[name] = bootstrap(generation_credit(model, captions, guidance=guidance, seed=seed, read=read))
        progress(f"{name}: {measured[name]}")
    items = world_items(each, size=model.image_size, seed=seed)
    how = Elimination()
    verdicts = SelfEval(model, how, seed=seed).examine(items)
    for task, interval in accuracy(results_of(items, verdicts)).items():
        measured[f"own likelihood, {task}"] = interval
        progress(f"own likelihood, {task}: {interval}")
    fitted = calibrate([v.choice for v in verdicts], [item.answer for item in items], described(how))
    found = {"measured": {name: vars(i) for name, i in measured.items()}, "guidance": guidance, "goals": GOALS,
             "calibration": vars(fitted), "each": each, "seed": seed}
    card = (source / CARD).read_text(encoding="utf-8").rstrip()
    model.save_pretrained(out, card=f"{card}\n\n{_table(measured, guidance, each)}", dtype=torch.float16)
    fitted.save(out / CALIBRATION)
    write_text(out / MEASURED, json.dumps(found, indent=1) + "\n")
    return found


def held_out(each: int, size: int, seed: int) -> dict[str, list[str]]:
    """True captions of test scenes: one object by color and shape, and two of them in one picture."""
    one = [item.options[item.answer] for item in world_items(each, tasks=("color",), size=size, seed=seed + 1)]
    two: list[str] = []
    for number in range(2, 40):
        bound = world_items(each, tasks=("attribute",), size=size, seed=seed + number)
        told = (item.options[item.answer] for item in bound)
        two += [caption for caption in told if sum(word in COLORS for word in split_words(caption)) == 2]
        if len(two) >= each:
            break
    return {"one object, color and shape right": one, "two objects, both bound": two[:each]}


def _table(measured: dict[str, Interval], guidance: float, each: int) -> str:
    lines = [f"Measured by `diorama selfeval finish` on the test split, {each} captions or items each, guidance "
             f"{guidance:g}; pictures as the world's oracle reads them.", "",
             "| what | share | goal |", "|---|---|---|"]
    for name, i in measured.items():
        goal = f"{GOALS[name]:.0%}" if name in GOALS else ""
        lines.append(f"| {name} | {i.mean:.1%} ({i.low:.1%} - {i.high:.1%}, n {i.n}) | {goal} |")
    return "\n".join(lines)
