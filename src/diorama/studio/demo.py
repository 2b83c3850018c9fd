"""`make demo`: files from the world that anybody can open, five questions about them, the answers beside the truth."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from diorama.console import note
from diorama.errors import InputError
from diorama.media.images import save_image, to_image
from diorama.media.videos import write_video
from diorama.media.writing import written_whole
from diorama.studio.execution import Outcome, to_number
from diorama.studio.report import Report, load_vision, make_plan, run_plan
from diorama.world.pool import seen_objects
from diorama.world.questions import CLIP_KINDS, IMAGE_KINDS, questions
from diorama.world.rendering import render
from diorama.world.requests import Answer, Choice, Number, Request, Span, comparison, requests
from diorama.world.sampling import sample_scene
from diorama.world.scene import Scene

SIZE, FPS, SAMPLES = 256, 24, 4
CLIP, IMAGE, OTHER = "clip.mp4", "image.png", "other.png"
SEEDS_TRIED = 40
OVERLAP = 0.5
"""Share of the union by which a located span must meet the true one."""


@dataclass(frozen=True)
class Asked:
    """A request, the demo's files that it is about, and what would be right."""

    request: Request
    files: tuple[str, ...]


@dataclass(frozen=True)
class Stage:
    """Two still scenes and one that moves, with which of their objects can be seen, and what is asked of them."""

    scenes: dict[str, Scene]
    visible: dict[str, list[bool]]
    asked: tuple[Asked, ...]


def run_demo(folder: Path, weights: str, seed: int, device: str, dry_run: bool = False) -> tuple[dict[str, Any], str]:
    """Render the files into `folder`, ask, and tell: (plain values, text for a person).

    Raises InputError for a negative seed or a `folder` that is a file.
    """
    if folder.is_file():
        raise InputError(f"--out names {folder}, which is a file. Name a folder.")
    stage = set_stage(seed)
    names = [CLIP, IMAGE, OTHER]
    if dry_run:
        planned = [{"request": a.request.text, "files": list(a.files)} for a in stage.asked]
        return ({"out": str(folder), "files": names, "questions": planned},
                "\n".join(f"{', '.join(a.files)}: {a.request.text}" for a in stage.asked))
    vision = load_vision(weights, device)
    note(f"rendering {', '.join(names)} at {SIZE} x {SIZE} into {folder}")
    write_files(folder, stage)
    rows = []
    for number, asked in enumerate(stage.asked, 1):
        plan = make_plan(asked.request.text, [folder / name for name in asked.files])
        report = run_plan(plan, weights, vision=vision)
        place = folder / f"question-{number}"
        report.write(place)
        rows.append(_row(asked, report, place))
        note(f"question {number} of {len(stage.asked)}")
    right = sum(row["right"] for row in rows)
    result = {"out": str(folder), "model": weights, "seed": seed, "files": [str(folder / name) for name in names],
              "questions": rows, "right": right, "of": len(rows)}
    return result, _told(result, folder)


def set_stage(seed: int) -> Stage:
    """Scenes of the test split, from the first seeds at which all five kinds of question can be asked."""
    for attempt in range(SEEDS_TRIED):
        rng = Random(f"diorama demo {seed} {attempt}")
        start = seed * 1000 + attempt
        scenes = {CLIP: sample_scene(start, split="test", moving=True, objects=(2, 4)),
                  IMAGE: sample_scene(start, split="test", objects=(3, 5)),
                  OTHER: sample_scene(start + 500, split="test", objects=(2, 5))}
        visible = {name: _visible(scene) for name, scene in scenes.items()}
        asked = _ask(scenes, visible, rng)
        if asked is not None:
            return Stage(scenes, visible, asked)
    raise InputError(f"No scenes for five kinds of question were found from seed {seed}. Pass another --seed.")


def _ask(scenes: dict[str, Scene], visible: dict[str, list[bool]], rng: Random) -> tuple[Asked, ...] | None:
    def plain(name: str, kinds: Sequence[Any]) -> list[Asked]:
        drawn = questions(scenes[name], rng, n=1, kinds=kinds, visible=visible[name])
        return [Asked(Request("answer", q.question, 1, Answer(q.answer, q.choices)), (name,)) for q in drawn]

    about_image = plain(IMAGE, [kind for kind in IMAGE_KINDS if kind not in ("count", "exists", "same")])
    about_clip = plain(CLIP, [kind for kind in CLIP_KINDS if kind != "times"])
    count = requests(scenes[IMAGE], rng, kinds=("count",), visible=visible[IMAGE])
    locate = requests(scenes[CLIP], rng, kinds=("locate",), visible=visible[CLIP])
    compare = comparison(scenes[IMAGE], scenes[OTHER], rng, visible=(visible[IMAGE], visible[OTHER]))
    if not (about_image and about_clip and count and locate and compare):
        return None
    return (*about_image, Asked(count[0], (IMAGE,)), *about_clip, Asked(locate[0], (CLIP,)),
            Asked(compare, (IMAGE, OTHER)))


def _visible(scene: Scene) -> list[bool]:
    """Which objects can be seen well enough to be asked about."""
    rendering = render([scene], size=64, frames=8 if scene.duration else 1)
    return list(map(bool, seen_objects(rendering.visible.numpy())[0, :len(scene.objects)]))


def write_files(folder: Path, stage: Stage) -> None:
    """The clip (H.264), the images (PNG) and the truth about each (JSON) with the questions asked of it."""
    for name, scene in stage.scenes.items():
        frames = round(scene.duration * FPS) + 1
        rgb = render([scene], size=SIZE, times=[i / FPS for i in range(frames)], samples=SAMPLES).rgb[0]
        if name == CLIP:
            write_video(folder / name, rgb.permute(0, 2, 3, 1).numpy(), FPS)
        else:
            save_image(folder / name, to_image(rgb[0]))
        truth = {"file": name, "scene": scene.to_dict(), "visible": stage.visible[name], "questions": [
            {"request": a.request.text, "files": list(a.files), "truth": asdict(a.request.truth)}
            for a in stage.asked if name in a.files]}
        with written_whole(folder / f"{Path(name).stem}.truth.json") as partial:
            partial.write_text(json.dumps(truth, indent=2) + "\n", encoding="utf-8")


def is_right(outcome: Outcome, truth: Answer | Number | Span | Choice) -> bool:
    """Whether the value of a step is the true one; a span must share half of its union with the true span."""
    value = outcome.value
    if isinstance(truth, Answer):
        number = to_number(truth.text)
        return value == number if isinstance(value, int) else value.strip().lower() == truth.text
    if isinstance(truth, Number):
        return value == truth.value
    if isinstance(truth, Span):
        return value is not None and overlap((value["start"], value["end"]), (truth.start, truth.end),
                                             value["resolution"]) >= OVERLAP
    winners = {"first": [0], "second": [1], "both": [0, 1], "neither": []}
    return value["files"] == winners[truth.which] and None not in value["values"]


def overlap(found: tuple[float, float], true: tuple[float, float], resolution: float) -> float:
    """Intersection over union of two spans in seconds, both at least as long as the resolution."""
    spans = [(start, end) if end - start >= resolution else
             ((start + end - resolution) / 2, (start + end + resolution) / 2) for start, end in (found, true)]
    shared = min(spans[0][1], spans[1][1]) - max(spans[0][0], spans[1][0])
    whole = max(spans[0][1], spans[1][1]) - min(spans[0][0], spans[1][0])
    return max(shared, 0.0) / whole if whole > 0 else 1.0


def truth_in_words(truth: Answer | Number | Span | Choice) -> str:
    """The truth for a person."""
    if isinstance(truth, Answer):
        return truth.text
    if isinstance(truth, Number):
        return str(truth.value)
    if isinstance(truth, Span):
        is_moment = truth.end == truth.start
        return f"at {truth.start:.2f} s" if is_moment else f"from {truth.start:.2f} s to {truth.end:.2f} s"
    return {"first": IMAGE, "second": OTHER}.get(truth.which, truth.which)


def _row(asked: Asked, report: Report, place: Path) -> dict[str, Any]:
    (outcome,) = report.outcomes
    return {"kind": asked.request.kind, "files": list(asked.files), "request": asked.request.text,
            "answer": outcome.text, "truth": truth_in_words(asked.request.truth),
            "right": is_right(outcome, asked.request.truth), "value": outcome.value, "out": str(place)}


def _told(result: dict[str, Any], folder: Path) -> str:
    lines = []
    for row in result["questions"]:
        lines += [f"{'right' if row['right'] else 'WRONG'}  {' '.join(row['files'])}: {row['request']}",
                  f"       answer: {row['answer']}", f"       truth:  {row['truth']}"]
    lines += ["", f"{result['right']} of {result['of']} right ({result['model']}).", "", "Open these:"]
    lines += [f"  {path}" for path in result["files"]]
    lines += [f"  {row['out']}/contact_sheet.png" for row in result["questions"]]
    first = result["questions"][0]
    again = shlex.join([first["request"], *(str(folder / name) for name in first["files"])])
    return "\n".join([*lines, "", f"Ask your own:  diorama do {again}"])
