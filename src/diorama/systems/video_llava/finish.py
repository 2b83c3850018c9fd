"""From a trained model to the shipped one: half precision, the threshold of the familiar, measured numbers, a card."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from diorama.checkpoints import write_text
from diorama.errors import InputError
from diorama.metrics import Interval
from diorama.systems.video_llava.evaluate import examine_world, photographs, renders_shown, strangeness_of
from diorama.systems.video_llava.familiarity import error_rates, threshold_between
from diorama.systems.video_llava.pipeline import VideoLlava
from diorama.systems.video_llava.recipe import STAGES

MEASURED = "measured.json"
GOALS = {"image": (0.90, ("color", "shape", "count", "where")), "clip": (0.85, ("direction", "order", "moved"))}
"""What the miniature is meant to reach, by kind of question."""


def finish(source: Path, out: Path, *, runs: Path, calibration: Path, held_out: Path, scenes: int, command: str,
           progress: Callable[[str], None]) -> dict[str, Any]:
    """Write the model of `source` to `out` in half precision with its measured numbers; returns them.

    runs: the folder that the stages were trained in, for steps and seconds. calibration: photographs that set the
    threshold of familiarity against renders; held_out: other photographs, on which its errors are reported.
    InputError when either folder holds no picture.
    """
    llava = VideoLlava.from_pretrained(source, device="cpu")
    llava.model.half().float()  # measure what is shipped, not what was trained
    familiarity = calibrate(llava, calibration, held_out)
    accuracy: dict[str, dict[str, dict[str, Interval]]] = {}
    for split in ("test", "novel"):
        accuracy[split] = {}
        for kind, moving in (("image", False), ("clip", True)):
            progress(f"examining {kind}s of the split {split}")
            accuracy[split][kind] = examine_world(llava, split, moving=moving, scenes=scenes)
    measured = {
        "command": command, "scenes": scenes, "stages": [_stage(runs / name) for name in stage_folders(runs)],
        "accuracy": _plain(accuracy["test"]), "novel": _plain(accuracy["novel"]), "familiarity": familiarity,
        "weights": sum(p.numel() for p in llava.model.parameters()),
    }
    llava.save_pretrained(out, card=card(measured), dtype=torch.float16)
    write_text(out / MEASURED, json.dumps(measured, indent=1) + "\n")
    return measured


def calibrate(llava: VideoLlava, calibration: Path, held_out: Path) -> dict[str, float | int]:
    """Set the threshold of familiarity and report its errors on pictures that did not set it."""
    assert llava.familiarity is not None
    llava.familiarity = replace(llava.familiarity, threshold=torch.tensor(1.0))
    distances: dict[str, tuple[list[float], list[float]]] = {}
    for name, folder in (("calibration", calibration), ("held out", held_out)):
        found, _ = strangeness_of(llava, photographs(folder))
        if not found:
            raise InputError(f"{folder} holds no picture that can be read, so no threshold can be set. "
                             "Pass a folder of photographs.")
        renders = renders_shown(llava, scenes=max(len(found), 200), seed=9_500_000 + 10_000 * len(distances))
        distances[name] = (renders, found)
    threshold = threshold_between(*(torch.tensor(values) for values in distances["calibration"]))
    llava.familiarity = replace(llava.familiarity, threshold=torch.tensor(threshold))
    renders, found = distances["held out"]
    false_alarms, misses = error_rates(renders, found, threshold)
    return {"threshold": threshold, "renders": len(renders), "photographs": len(found),
            "renders called strange": false_alarms, "photographs called familiar": misses}


def stage_folders(runs: Path) -> list[str]:
    """The stages' runs, in order; alignment has two, and a run that an earlier one went before has that in a folder
    STAGE-before beside it."""
    names = [name for stage in STAGES for part in
             ([f"{stage}/images", f"{stage}/clips"] if stage == "align" else [stage])
             for name in [f"{part}-before"] * (runs / f"{part}-before").is_dir() + [part]]
    absent = [name for name in names if not (runs / name / "metrics.jsonl").is_file()]
    if absent:
        raise InputError(f"{runs} lacks the log of {', '.join(absent)}, which the card reports. "
                         "Pass the --out folder of `diorama video-llava train`.")
    return names


def _stage(run: Path) -> dict[str, Any]:
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    settings = yaml.safe_load((run / "config.yaml").read_text())
    return {"stage": "/".join(run.parts[-2:]) if "align" in run.parts else run.name, "steps": last["step"],
            "seconds": last["seconds"], "loss": last["loss"], "seed": settings["run"]["seed"],
            "learning_rate": settings["run"]["learning_rate"], "device": settings["device"]}


def _plain(accuracy: Mapping[str, Mapping[str, Interval]]) -> dict[str, dict[str, dict[str, float | int]]]:
    return {medium: {kind: asdict(interval) for kind, interval in rows.items()} for medium, rows in accuracy.items()}


def card(measured: Mapping[str, Any]) -> str:
    """The model card, written from the measured numbers alone."""
    stages = measured["stages"]
    total = sum(stage["seconds"] for stage in stages)
    lines = [
        "# video-llava-mini", "",
        f"Video-LLaVA (arXiv 2311.10122) at {measured['weights'] / 1e6:.2f} million weights, trained from nothing on "
        "diorama's procedural world. It answers short questions about that world's pictures and clips and knows "
        "nothing else; `strangeness` above 1 says that a file is unlike what it was trained on.", "",
        "## How it was made", "", "```bash", measured["command"], "```", "",
        "| stage | steps | seconds | last loss | learning rate | seed | device |", "|---|---|---|---|---|---|---|",
    ]
    lines += [f"| {s['stage']} | {s['steps']} | {s['seconds']:.0f} | {s['loss']:.3f} | {s['learning_rate']:g} | "
              f"{s['seed']} | {s['device']} |" for s in stages]
    lines += ["", f"Seed {stages[0]['seed']}, {sum(s['steps'] for s in stages)} steps in {total:.0f} seconds on "
              f"{stages[0]['device']}, beside the rendering of the pools. Weights are stored in "
              "half precision; the numbers below are of those weights.", "", "## What it can do", "",
              f"Exact match on {measured['scenes']} unseen scenes of each kind, six questions each, with 95 % Wilson "
              "intervals (`measured.json` holds the same numbers):", ""]
    lines += _accuracy_rows("test: unseen scenes", measured["accuracy"])
    lines += _accuracy_rows("novel: color-shape and shape-motion pairs never seen in training", measured["novel"])
    lines += [*_shortfalls(measured["accuracy"]), "", "## What it does not know", ""]
    f = measured["familiarity"]
    lines += [f"On {f['photographs']} photographs and {f['renders']} renders that did not set the threshold, it calls "
              f"{f['renders called strange']:.1%} of the renders strange (false alarms) and "
              f"{f['photographs called familiar']:.1%} of the photographs familiar (misses)."]
    return "\n".join(lines) + "\n"


def _accuracy_rows(title: str, accuracy: Mapping[str, Any]) -> list[str]:
    rows = [f"**{title}**", "", "| medium | kind | right | 95 % interval | questions |", "|---|---|---|---|---|"]
    for medium, kinds in accuracy.items():
        rows += [f"| {medium} | {kind} | {i['mean']:.1%} | {i['low']:.1%} - {i['high']:.1%} | {i['n']} |"
                 for kind, i in kinds.items()]
    return [*rows, ""]


def _shortfalls(accuracy: Mapping[str, Any]) -> Sequence[str]:
    """One line for every kind of question that misses its goal."""
    missed = [f"{medium} questions of the kind {kind}: {accuracy[medium][kind]['mean']:.1%}, goal {goal:.0%}"
              for medium, (goal, kinds) in GOALS.items() for kind in kinds
              if kind in accuracy[medium] and accuracy[medium][kind]["mean"] < goal]
    if not missed:
        return ["Every kind of question that has a goal reaches it."]
    return ["**Falls short of its goal:**", "", *(f"- {line}" for line in missed)]
