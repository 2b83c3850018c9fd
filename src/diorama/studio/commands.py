"""The commands that belong to no single system: do, demo, doctor and reproduce. Nothing heavy is imported up here."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from diorama.console import Common, counting, emit, note
from diorama.errors import InputError

COMMON = Common()


def do(
    request: str,
    *files: Path,
    weights: str = "video-llava-mini",
    frames: int | None = None,
    common: Common = COMMON,
) -> int:
    """Answer a request about images and clips: plan it, run it, answer.

    The answer is printed; answer.json, trace.json and contact_sheet.png are written into --out
    (default: a folder under diorama-out).

    Parameters
    ----------
    request
        What to find out, in plain words: "how many cubes are in a.png and what moves in b.mp4?"
    files
        The images and clips that the request is about.
    weights
        A shipped checkpoint, a local folder, or a hub id such as LanguageBind/Video-LLaVA-7B.
    frames
        Frames looked at in each clip; as many as the checkpoint was trained on where none is given.
    """
    from diorama.studio.report import default_folder, make_plan, run_plan

    folder = common.folder(default_folder(request, files))
    if folder.is_file():
        raise InputError(f"--out names {folder}, which is a file. Name a folder.")
    plan = make_plan(request, files)
    if common.dry_run:
        emit({"plan": plan.to_dict(), "weights": weights, "out": str(folder)}, plan.describe(), common)
        return 0
    with counting("steps", len(plan.steps)) if len(plan.steps) > 1 else _quietly() as advance:
        report = run_plan(plan, weights, frames=frames, device=common.device,
                          progress=lambda done, total: advance(done))
    written = report.write(folder)
    for warning in report.warnings:
        note(f"diorama: {warning}")
    note(f"wrote {', '.join(path.name for path in written)} into {folder}")
    emit({**report.answer(), "out": str(folder), "written": [str(path) for path in written]}, report.text, common)
    return 0


def doctor(*, common: Common = COMMON) -> int:
    """Say what is installed, what is missing, and the line to type."""
    from diorama.studio.doctor import examine, told

    found = examine()
    emit(found, told(found), common)
    return 0


def demo(*, weights: str = "video-llava-mini", common: Common = COMMON) -> int:
    """Render a clip and two images, ask five questions about them, and show the answers beside the truth.

    Parameters
    ----------
    weights
        The checkpoint that is asked.
    """
    from diorama.studio.demo import run_demo

    result, text = run_demo(common.folder("diorama-out/demo"), weights, common.seed, common.device, common.dry_run)
    emit(result, text, common)
    return 0


def reproduce(
    *systems: str,
    quick: Annotated[bool, Parameter(negative="")] = False,
    seeds: int | None = None,
    common: Common = COMMON,
) -> int:
    """Re-run the headline claims in miniature; exit code 1 where one does not hold.

    With --json one object a system is printed, each on a line of its own.

    Parameters
    ----------
    systems
        Names of systems, such as video-llava; all that are built where none is given.
    quick
        At most a minute a system.
    seeds
        How many seeds each arm is run with: 1 with --quick, else 3, where none is given.
    """
    from diorama.metrics.claims import report, seeds_from

    drawn = seeds_from(common.seed, (1 if quick else 3) if seeds is None else seeds)
    chosen = _claimed(systems)
    folder = common.folder("diorama-out/reproduce")
    if common.dry_run:
        emit({"systems": list(chosen), "mode": "quick" if quick else "full", "seeds": list(drawn)},
             f"would re-run {', '.join(chosen)} with seeds {', '.join(map(str, drawn))} into {folder}", common)
        return 0
    code = 0
    for name, module in chosen.items():
        note(f"{name}: re-running its claim ({'quick' if quick else 'full'})")
        claim: Any = import_module(module).reproduce(quick=quick, seeds=drawn, out=folder / name, progress=note)
        code = max(code, report(claim, common))
    return code


def _claimed(names: tuple[str, ...]) -> dict[str, str]:
    """The chosen systems that have a claim to re-run: name -> module."""
    from diorama.cli import SYSTEMS

    known = {system.name: f"diorama.systems.{system.name.replace('-', '_')}" for system in SYSTEMS}
    for name in names:
        if name not in known:
            raise InputError(f"There is no system {name!r}; there are {', '.join(known)}. Pass one of these.")
    built = {name: f"{module}.reproduce" for name, module in known.items()
             if find_spec(module) and find_spec(f"{module}.reproduce")}
    if waiting := [name for name in names if name not in built]:
        raise InputError(f"{waiting[0]} has no claim to re-run yet. "
                         f"{'These have: ' + ', '.join(built) if built else 'No system has one yet'}.")
    if not built:
        raise InputError("No system has a claim to re-run yet, so there is nothing to do. Type `diorama` to see them.")
    return {name: built[name] for name in names or built}


def _quietly() -> Any:
    """A stand-in for a progress bar where there is one step."""
    from contextlib import nullcontext

    return nullcontext(lambda done: None)
