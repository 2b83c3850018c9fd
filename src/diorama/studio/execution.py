"""Runs a plan with the vision model and keeps, for every step, what was asked, of which frames, and what came back.

Values are typed: text, a whole number, a span in seconds, the files that win a comparison. `Vision` is what is
needed of a model; `diorama.systems.video_llava.pipeline.VideoLlava` is one.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from diorama.studio import moments
from diorama.studio.plan import Answer, Compare, Count, Locate, Plan, Step, how_many, step_to_dict

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
                "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty")
COUNTABLE = NUMBER_WORDS[:7]
NOTHING = ("no", "none", "nothing", "nobody", "nowhere")
YES_NO = ("yes", "no")
COLORS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "grey")
SHAPES = ("spheres", "cubes", "cylinders", "cones", "tori", "pyramids")


class Shown(Protocol):
    """Files in front of the model."""

    @property
    def looked(self) -> Sequence[Any]: ...
    def ask(self, questions: str | Sequence[str]) -> list[Any]: ...
    def choose(self, question: str, choices: Sequence[str]) -> Any: ...


class Vision(Protocol):
    """A model that answers questions about files."""

    name: str

    def sampler(self, *, frames: int | None = None, start: float | None = None, end: float | None = None) -> Any: ...
    def show(self, sources: Sequence[Any], sampler: Any = None) -> Any: ...


@dataclass(frozen=True)
class Exchange:
    """One question to the model and its raw answer, with the frames it saw (empty for an image).

    probability: of the raw answer among yes and no, or among zero to six; None for free text.
    """

    file: int
    question: str
    raw: str
    seconds: float
    indices: tuple[int, ...] = ()
    timestamps: tuple[float, ...] = ()
    probability: float | None = None
    unknown_words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """A step's answer in words and as a value, and the exchanges it rests on.

    value: text (answer), int or None (count), {"start", "end", "resolution"} or None (locate),
    {"files": indices, "values": one a file} (compare).
    """

    step: Step
    text: str
    value: Any
    exchanges: tuple[Exchange, ...]
    seconds: float
    probability: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "step": step_to_dict(self.step), "answer": self.text, "value": self.value, "probability": self.probability,
            "seconds": round(self.seconds, 4),
            "exchanges": [{**vars(exchange), "indices": list(exchange.indices), "seconds": round(exchange.seconds, 4),
                           "timestamps": list(exchange.timestamps), "unknown_words": list(exchange.unknown_words)}
                          for exchange in self.exchanges],
        }


@dataclass
class Execution:
    """A plan under way: every file is shown to the model once and kept for all further questions."""

    plan: Plan
    vision: Vision
    frames: int | None = None
    progress: Callable[[int, int], None] = lambda done, total: None
    shown: dict[int, Shown] = field(default_factory=dict)

    def run(self) -> list[Outcome]:
        """The outcomes of all steps, in order. Raises MediaError for files that cannot be read."""
        for index in sorted({i for step in self.plan.steps for i in files_of(step)}):
            self.show(index)
        outcomes = []
        for number, step in enumerate(self.plan.steps, 1):
            began = time.perf_counter()
            text, value, exchanges, probability = self._do(step)
            outcomes.append(Outcome(step, text, value, tuple(exchanges), time.perf_counter() - began, probability))
            self.progress(number, len(self.plan.steps))
        return outcomes

    def show(self, index: int) -> Shown:
        """The file in front of the model."""
        if index not in self.shown:
            sampler = None if self.frames is None else self.vision.sampler(frames=self.frames)
            self.shown[index] = self.vision.show([self.plan.files[index].path], sampler)
        return self.shown[index]

    def ask(self, index: int, questions: Sequence[str]) -> list[Exchange]:
        """The model's answers about one file."""
        shown = self.show(index)
        looked = shown.looked[0]
        found = []
        for answer in shown.ask(list(questions)):
            found.append(Exchange(index, answer.question, answer.text, answer.seconds, tuple(looked.indices),
                                  tuple(looked.timestamps), self._probability(shown, answer),
                                  tuple(answer.unknown_words)))
        return found

    def _probability(self, shown: Shown, answer: Any) -> float | None:
        """How likely the model finds its own answer among the alternatives, where there are two or seven."""
        said = _plain(answer.text)
        for choices in (YES_NO, COUNTABLE):
            if said in choices:
                return float(shown.choose(answer.question, choices).probabilities[said])
        return None

    def _do(self, step: Step) -> tuple[str, Any, list[Exchange], float | None]:
        if isinstance(step, Answer):
            (exchange,) = self.ask(step.file, [step.question])
            return exchange.raw, exchange.raw, [exchange], exchange.probability
        if isinstance(step, Count):
            (exchange,) = self.ask(step.file, [step.question])
            number = to_number(exchange.raw)
            return exchange.raw if number is None else str(number), number, [exchange], exchange.probability
        if isinstance(step, Locate):
            return self._locate(step)
        return (*(self._changes(step) if step.basis == "changes" else self._compare(step)), None)

    def _locate(self, step: Locate) -> tuple[str, Any, list[Exchange], float | None]:
        located = moments.locate(self.vision, self.plan.files[step.file].path, step.question, self.frames)
        exchanges = [Exchange(step.file, step.question, window.raw, window.seconds, window.indices, window.timestamps,
                              window.probability if window.raw == "yes" else 1 - window.probability)
                     for window in located.windows]
        span = located.span
        if span is None:
            return "not seen in this clip", None, exchanges, located.probability
        value = {"start": round(span[0], 3), "end": round(span[1], 3), "resolution": round(located.resolution, 3)}
        give = f"(to within {located.resolution:.2f} s)"
        text = {"start": f"at {span[0]:.2f} s {give}", "end": f"at {span[1]:.2f} s {give}",
                "span": f"from {span[0]:.2f} s to {span[1]:.2f} s {give}"}[step.part]
        return text, value, exchanges, located.probability

    def _compare(self, step: Compare) -> tuple[str, Any, list[Exchange]]:
        exchanges = [self.ask(index, [step.question])[0] for index in step.files]
        names = [self.plan.files[index].name for index in step.files]
        raw = [exchange.raw for exchange in exchanges]
        if step.basis == "exists":
            values: list[Any] = [to_truth(text) for text in raw]
            winners = [i for i, value in zip(step.files, values, strict=True) if value]
            told = _which(winners, step.files, names)
        elif step.basis == "same answer":
            values = [_plain(text) for text in raw]
            is_same = len(set(values)) == 1
            winners = list(step.files) if is_same else []
            told = f"yes: {values[0]}" if is_same else "no: " + ", ".join(map(_in_file, values, names))
        else:
            values = [to_number(text) for text in raw]
            if None in values:
                missing = names[values.index(None)]
                told, winners = f"undecided: no number could be read from the answer about {missing}", []
            else:
                winners, told = _ranked(step, values, names)
        return told, {"files": winners, "values": values}, exchanges

    def _changes(self, step: Compare) -> tuple[str, Any, list[Exchange]]:
        """Counts of everything, by color and by shape; then the place, size and shape of what is alone of its color."""
        groups = ("objects", *(f"{color} objects" for color in COLORS), *SHAPES)
        counted = {i: self.ask(i, [how_many(what) for what in groups]) for i in step.files}
        numbers = {i: [to_number(exchange.raw) for exchange in counted[i]] for i in step.files}
        first, second = step.files
        found = [f"{_amount(a)} {what} in the first, {_amount(b)} in the second"
                 for what, a, b in zip(groups, numbers[first], numbers[second], strict=True)
                 if a is not None and b is not None and a != b]
        alone = [color for color in COLORS if numbers[first][groups.index(f"{color} objects")] == 1
                 and numbers[second][groups.index(f"{color} objects")] == 1]
        asked = [question for color in alone for question in (
            f"what shape is the {color} object?", f"what size is the {color} object?", f"where is the {color} object?")]
        exchanges = [*counted[first], *counted[second]]
        if asked:
            told = {i: self.ask(i, asked) for i in step.files}
            exchanges += [*told[first], *told[second]]
            for one, other in zip(told[first], told[second], strict=True):
                if _plain(one.raw) != _plain(other.raw):
                    found.append(f"{one.question} {_plain(one.raw)}, then {_plain(other.raw)}")
        text = f"yes: {'; '.join(found)}" if found else "no change in number, color, shape, size or place is seen"
        return text, {"files": [], "values": [numbers[first], numbers[second]], "changes": found}, exchanges


def files_of(step: Step) -> tuple[int, ...]:
    """The indices of the files that a step is about."""
    return step.files if isinstance(step, Compare) else (step.file,)


def to_number(text: str) -> int | None:
    """The first whole number in an answer, in digits or words; none and no are 0; None where there is no number."""
    words = re.findall(r"\d+|[a-z]+", text.lower())
    for word in words:
        if word.isdigit():
            return int(word)
        if word in NUMBER_WORDS:
            return NUMBER_WORDS.index(word)
    if words and any(word in NOTHING for word in words):
        return 0
    return 1 if words[:1] in (["a"], ["an"], ["single"], ["once"]) else None


def to_truth(text: str) -> bool | None:
    """Yes or no at the start of an answer; None where it says neither."""
    word = re.match(r"\W*(\w+)", text.lower())
    return {"yes": True, "no": False}.get(word[1]) if word else None


def _plain(text: str) -> str:
    return text.strip().rstrip(".").lower()


def _amount(number: int | None) -> str:
    return "?" if number is None else str(number)


def _in_file(value: Any, name: str) -> str:
    return f"{value} in {name}"


def _which(winners: Sequence[int], files: Sequence[int], names: Sequence[str]) -> str:
    told = [name for index, name in zip(files, names, strict=True) if index in winners]
    if not told:
        return "neither" if len(files) == 2 else "none of them"
    if len(told) == len(files):
        return "both" if len(files) == 2 else "all of them"
    return f"only {told[0]}" if len(told) == 1 else " and ".join(told)


def _ranked(step: Compare, values: list[Any], names: Sequence[str]) -> tuple[list[int], str]:
    """The files with the most (fewest), or all of them where the counts are equal, and the sentence that says so."""
    listed = ", ".join(map(_in_file, values, names))
    if len(set(values)) == 1:
        count = "both" if len(names) == 2 else "all"
        return list(step.files), f"{'yes: ' if step.basis == 'same count' else ''}{count} show {values[0]} {step.what}"
    if step.basis == "same count":
        return [], f"no: {listed}"
    best = max(values) if step.basis == "most" else min(values)
    winners = [index for index, value in zip(step.files, values, strict=True) if value == best]
    leading = " and ".join(name for index, name in zip(step.files, names, strict=True) if index in winners)
    return winners, f"{leading} ({step.what}: {listed})"
