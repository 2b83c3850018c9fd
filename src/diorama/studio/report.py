"""One request from words to files: plan it, run it, and write answer.json, trace.json and contact_sheet.png."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diorama.errors import InputError
from diorama.media.images import save_image
from diorama.media.videos import kind_of
from diorama.media.writing import written_whole
from diorama.metrics.claims import package_versions
from diorama.studio.execution import Execution, Outcome
from diorama.studio.grammar import plan_request
from diorama.studio.plan import Compare, GivenFile, Plan
from diorama.studio.sheet import contact_sheet

MINIATURE = "video-llava-mini"
PUBLIC = "LanguageBind/Video-LLaVA-7B"
ANSWER, TRACE, SHEET = "answer.json", "trace.json", "contact_sheet.png"


@dataclass(frozen=True)
class Report:
    """Everything that is known of a request after it was run."""

    plan: Plan
    outcomes: tuple[Outcome, ...]
    looked: tuple[Any, ...]
    weights: str
    device: str
    warnings: tuple[str, ...]
    seconds: float
    loading_seconds: float

    @property
    def text(self) -> str:
        """The answer for a person: one line, or one a step with what it answers."""
        if len(self.outcomes) == 1:
            return self.outcomes[0].text
        return "\n".join(f"{label} {outcome.text}" for label, outcome in zip(self.labels, self.outcomes, strict=True))

    @property
    def labels(self) -> list[str]:
        """What each step asked, with the file's name where there are several."""
        labels = []
        for outcome in self.outcomes:
            step = outcome.step
            if isinstance(step, Compare):
                names = " | ".join(self.plan.files[i].name for i in step.files)
                labels.append(f"{names}: {step.question or 'what changes?'}")
            else:
                where = f"{self.plan.files[step.file].name}: " if len(self.plan.files) > 1 else ""
                labels.append(f"{where}{step.question}")
        return labels

    def answer(self) -> dict[str, Any]:
        """What answer.json holds."""
        return {
            "request": self.plan.request, "answer": self.text,
            "steps": [outcome.to_dict() for outcome in self.outcomes],
            "files": [looked.to_dict() for looked in self.looked], "model": self.weights,
            "warnings": list(self.warnings), "seconds": round(self.seconds, 3),
        }

    def trace(self) -> dict[str, Any]:
        """What trace.json holds: the plan, the model, every exchange with its frames, times and versions."""
        return {
            "plan": self.plan.to_dict(), "model": self.weights, "device": self.device,
            "files": [looked.to_dict() for looked in self.looked],
            "steps": [outcome.to_dict() for outcome in self.outcomes],
            "seconds": {"loading": round(self.loading_seconds, 3), "running": round(self.seconds, 3)},
            "warnings": list(self.warnings), "versions": package_versions(),
        }

    def write(self, folder: Path) -> list[Path]:
        """Write the three files, each whole or not at all. Raises MediaError where the folder cannot be written."""
        spans = [(outcome.step.file, outcome.value["start"], outcome.value["end"]) for outcome in self.outcomes
                 if not isinstance(outcome.step, Compare) and isinstance(outcome.value, dict)]
        notes = [*self.warnings, f"{self.weights} on {self.device}, {self.seconds:.2f} s"]
        answers = [(label, outcome.text) for label, outcome in zip(self.labels, self.outcomes, strict=True)]
        sheet = contact_sheet(self.plan.request, self.looked, answers, notes, spans)
        for name, content in ((ANSWER, self.answer()), (TRACE, self.trace())):
            with written_whole(folder / name) as partial:
                partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        save_image(folder / SHEET, sheet)
        return [folder / name for name in (ANSWER, TRACE, SHEET)]


def make_plan(request: str, paths: Sequence[Path]) -> Plan:
    """The plan for a request about files. Raises InputError for unclear words and MediaError for unreadable files."""
    files = [GivenFile(path, kind_of(path)) for path in paths]
    return plan_request(request, files)


def load_vision(weights: str, device: str) -> Any:
    """The model that answers. Raises CheckpointError, and InputError for a device that is not there."""
    import torch

    from diorama.systems.video_llava.pipeline import VideoLlava

    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise InputError(f"The device {device!r} is not known. Pass auto, cpu, cuda or cuda:N.")
    if device.startswith("cuda"):
        number = int(device.partition(":")[2] or 0)
        if number >= torch.cuda.device_count():
            raise InputError(f"The device {device} was asked for, and torch sees {torch.cuda.device_count()} CUDA "
                             "devices. Pass --device cpu, or install torch for your GPU.")
    return VideoLlava.from_pretrained(weights, device=device)


def run_plan(plan: Plan, weights: str = MINIATURE, *, vision: Any = None, frames: int | None = None,
             device: str = "auto", progress: Callable[[int, int], None] = lambda done, total: None) -> Report:
    """Run a plan with the named checkpoint, or with `vision` where it is loaded already."""
    began = time.perf_counter()
    vision = load_vision(weights, device) if vision is None else vision
    loaded = time.perf_counter()
    execution = Execution(plan, vision, frames, progress)
    for index in range(len(plan.files)):
        execution.show(index)
    outcomes = tuple(execution.run())
    looked = tuple(execution.shown[index].looked[0] for index in range(len(plan.files)))
    warnings = (*strangers(plan, looked, weights), *unknown(outcomes))
    return Report(plan, outcomes, looked, weights, str(getattr(vision, "device", device)), warnings,
                  time.perf_counter() - loaded, loaded - began)


def strangers(plan: Plan, looked: Sequence[Any], weights: str) -> list[str]:
    """A sentence for files unlike everything that the checkpoint was trained on, with the line that uses another."""
    odd = [item for item in looked if item.strangeness is not None and item.strangeness > 1]
    if not odd:
        return []
    who = "the shipped miniature" if weights == MINIATURE else weights
    named = ", ".join(f"{item.name} ({item.strangeness:.1f}; 1 is the edge of what it knows)" for item in odd)
    paths = shlex.join(str(file.path) for file in plan.files)
    line = f"diorama do {shlex.quote(plan.request)} {paths} --weights {PUBLIC}"
    return [f"{who} has never seen pictures like {named}, so its answers about them deserve no trust. "
            f"To ask the public checkpoint, type: {line}"]


def unknown(outcomes: Sequence[Outcome]) -> list[str]:
    """A sentence for words of the questions that the checkpoint does not have."""
    words = list(dict.fromkeys(w for outcome in outcomes for e in outcome.exchanges for w in e.unknown_words))
    if not words:
        return []
    return [f"the model does not know {'the word' if len(words) == 1 else 'the words'} {', '.join(words)}, "
            "so it answered without understanding all of the question."]


def default_folder(request: str, paths: Sequence[Path]) -> str:
    """A folder name under diorama-out that is the same for the same request about the same files."""
    words = "-".join(re.findall(r"[a-z0-9]+", request.lower()))[:48].strip("-") or "request"
    key = hashlib.sha256("\0".join([request, *map(str, paths)]).encode()).hexdigest()[:6]
    return f"diorama-out/{words}-{key}"
