"""What `diorama do` is going to do, as plain values: which question is asked about which file, and what follows.

A plan is a tuple of steps. Files are named by their index, so a plan says nothing that depends on where they lie.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

FileKind = Literal["image", "video"]
Basis = Literal["most", "fewest", "exists", "same count", "same answer", "changes"]
Part = Literal["span", "start", "end"]


@dataclass(frozen=True)
class GivenFile:
    """A file of the request and what its content is."""

    path: Path
    kind: FileKind

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return self.path.name


@dataclass(frozen=True)
class Answer:
    """Ask the model; the answer is its words."""

    question: str
    file: int


@dataclass(frozen=True)
class Count:
    """Ask the model how many; the answer is a whole number. `what` is the plural that is counted."""

    what: str
    file: int
    question: str

    @classmethod
    def of(cls, what: str, file: int) -> Count:
        """The count of everything that `what` names in the plural."""
        return cls(what, file, how_many(what))


@dataclass(frozen=True)
class Locate:
    """Find from when to when something happens in a clip, in seconds.

    `question` is the yes-or-no question whose answer is yes while it happens; `part` says what of the span was asked.
    """

    question: str
    file: int
    part: Part = "span"


@dataclass(frozen=True)
class Compare:
    """Ask the same of several files, then compare the typed answers.

    most, fewest   which file has the most (fewest) `what`      same count    whether all have equally many
    exists         for which files `question` is answered yes   same answer   whether `question` is answered alike
    changes        what differs between two files: counts by color and shape, places; `question` is empty
    """

    basis: Basis
    question: str
    files: tuple[int, ...]
    what: str = ""


Step = Answer | Count | Locate | Compare


@dataclass(frozen=True)
class Plan:
    """A request, the files it is about, and the steps that answer it, in order."""

    request: str
    files: tuple[GivenFile, ...]
    steps: tuple[Step, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "request": self.request,
            "files": [{"path": str(file.path), "kind": file.kind} for file in self.files],
            "steps": [step_to_dict(step) for step in self.steps],
        }

    def describe(self) -> str:
        """A line a step, for people."""
        return "\n".join(f"{number}. {self._told(step)}" for number, step in enumerate(self.steps, 1))

    def _told(self, step: Step) -> str:
        if isinstance(step, Compare):
            names = ", ".join(self.files[i].name for i in step.files)
            asked = f'"{step.question}"' if step.question else "everything that can be counted"
            return f"compare ({step.basis}) {names}: {asked}"
        verb = {Answer: "answer", Count: "count", Locate: "locate in time"}[type(step)]
        return f'{verb} {self.files[step.file].name}: "{step.question}"'


def step_to_dict(step: Step) -> dict[str, Any]:
    """A step as plain values, with its kind first."""
    values = asdict(step)
    if isinstance(step, Compare):
        values["files"] = list(step.files)
    return {"kind": type(step).__name__.lower(), **values}


def how_many(what: str) -> str:
    """The question that counts `what`, a plural."""
    return f"how many {what} are there?"
