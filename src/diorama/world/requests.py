"""Requests that a person could make about files of the world, each with its typed truth.

They exercise the planner of `diorama do`: answer a question, count, locate something in time, compare two files.
The truth is a value, not words, so that a plan's result can be checked whatever it is worded like.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Literal, get_args

from diorama.errors import InputError
from diorama.world.facts import TRANSLATIONS, Visible, events, events_of
from diorama.world.happenings import phrase
from diorama.world.questions import questions
from diorama.world.references import is_usual, refer
from diorama.world.scene import COLORS, SHAPES, Scene
from diorama.world.statements import Count, Description, Exists, holds
from diorama.world.vocabulary import BARE_VERBS, VERBS, a, plural

RequestKind = Literal["answer", "count", "locate", "compare"]
REQUEST_KINDS: tuple[RequestKind, ...] = get_args(RequestKind)
Which = Literal["first", "second", "both", "neither"]


@dataclass(frozen=True)
class Answer:
    """A short text; it is right when it equals `text`, and `choices` are what it may be mistaken for."""

    text: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Number:
    """How many there are."""

    value: int


@dataclass(frozen=True)
class Span:
    """From when to when, in seconds from the start of the clip."""

    start: float
    end: float


@dataclass(frozen=True)
class Choice:
    """Which of two files; for counts `both` means equally many."""

    which: Which


Truth = Answer | Number | Span | Choice


@dataclass(frozen=True)
class Request:
    """What a person asks for, about how many files, and what would be right."""

    kind: RequestKind
    text: str
    files: int
    truth: Truth


def requests(
    scene: Scene, rng: Random, *, kinds: Iterable[RequestKind] | None = None, visible: Visible = None
) -> list[Request]:
    """One request about one file for each kind that the scene supports, in the order asked.

    `compare` needs two scenes: see `comparison`. Raises InputError for an unknown kind.
    """
    found: list[Request | None] = []
    for kind in REQUEST_KINDS[:3] if kinds is None else kinds:
        if kind == "answer":
            found.append(_answer(scene, rng, visible))
        elif kind == "count":
            found.append(_count(scene, rng, visible))
        elif kind == "locate":
            found.append(_locate(scene, rng, visible))
        else:
            known = ", ".join(REQUEST_KINDS[:3])
            raise InputError(
                f"{kind!r} is not a request about one scene; those are {known}. For two scenes call comparison()."
            )
    return [request for request in found if request is not None]


def _medium(scene: Scene) -> str:
    return "clip" if scene.duration > 0 else "picture"


def _answer(scene: Scene, rng: Random, visible: Visible) -> Request | None:
    drawn = questions(scene, rng, n=1, visible=visible)
    if not drawn:
        return None
    asked = drawn[0].question
    text = rng.choice((asked, f"tell me: {asked}", f"look at this {_medium(scene)}. {asked}"))
    return Request("answer", text, 1, Answer(drawn[0].answer, drawn[0].choices))


def _groups() -> list[Description]:
    return [Description(), *(Description(color=c) for c in COLORS), *(Description(shape=s) for s in SHAPES)]


def count_of(scene: Scene, what: Description, visible: Visible = None) -> int | None:
    """How many such objects there are, or None when looking does not settle it."""
    numbers = [n for n in range(len(scene.objects) + 1) if holds(Count(what, n), scene, visible)]
    return numbers[0] if numbers else None


def _count(scene: Scene, rng: Random, visible: Visible) -> Request | None:
    counted: dict[int, list[Description]] = {}
    for what in _groups():
        number = count_of(scene, what, visible)
        if number is not None:
            counted.setdefault(number, []).append(what)
    if not counted:
        return None
    number = rng.choice(sorted(counted))
    what = rng.choice(counted[number])
    several, medium = plural(what.color, what.shape), _medium(scene)
    text = rng.choice((
        f"count the {several}",
        f"count the {several} in this {medium}",
        f"how many {several} are there in this {medium}?",
        f"tell me how many {several} there are",
    ))
    return Request("count", text, 1, Number(number))


def _locate(scene: Scene, rng: Random, visible: Visible) -> Request | None:
    """When an object does the one thing of its kind that it does."""
    happening = events(scene, visible)
    rng.shuffle(happening)
    for event in happening:
        kinds = [e.motion.kind for e in events_of(scene, event.index)]
        what = refer(scene, event.index, rng, visible)
        if what is None or kinds.count(event.motion.kind) != 1:
            continue
        kind, name = event.motion.kind, phrase(what)
        simple = kind in TRANSLATIONS and sum(k in TRANSLATIONS for k in kinds) == 1 and rng.random() < 0.4
        bare, verb = ("move", "moves") if simple else (BARE_VERBS[kind], VERBS[kind])
        text = rng.choice((
            f"when does {name} {bare}?",
            f"find when {name} {verb}",
            f"tell me when {name} {verb}",
            f"from when to when does {name} {bare}?" if event.motion.end > event.motion.start
            else f"at which time does {name} {bare}?",
        ))
        return Request("locate", text, 1, Span(event.motion.start, event.motion.end))
    return None


def comparison(
    first: Scene,
    second: Scene,
    rng: Random,
    *,
    visible: tuple[Visible, Visible] = (None, None),
) -> Request | None:
    """A request that compares two files: which shows more of something, or which shows something at all.

    The right file is drawn before the request, so that `first`, `second`, `both` and `neither` are balanced as far
    as the scenes allow. None when nothing can be compared beyond doubt.
    """
    settled: dict[Which, list[str]] = {}
    for what in _groups():
        counts = (count_of(first, what, visible[0]), count_of(second, what, visible[1]))
        if counts[0] is None or counts[1] is None or counts == (0, 0):
            continue
        which: Which = "both" if counts[0] == counts[1] else ("first" if counts[0] > counts[1] else "second")
        several = plural(what.color, what.shape)
        settled.setdefault(which, []).append(f"which file shows more {several}, or do both show the same number?")
    for what in (Description(s, c) for s in SHAPES for c in COLORS):
        shown = (holds(Exists(what), first, visible[0]), holds(Exists(what), second, visible[1]))
        if None not in shown and is_usual(first, what) and is_usual(second, what):
            text = f"which file shows {a(what.words())}: the first, the second, both or neither?"
            settled.setdefault(_which(shown), []).append(text)
    if first.duration > 0 and second.duration > 0:
        for kind in VERBS:
            does = tuple(any(e.motion.kind == kind for e in events(s)) for s in (first, second))
            hidden = any(v is not None and not all(v) for v in visible)
            if any(does) and not hidden:
                text = f"in which clip is there an object that {VERBS[kind]}: the first, the second or both?"
                settled.setdefault(_which(does), []).append(text)
    if not settled:
        return None
    drawn = rng.choice(sorted(settled))
    return Request("compare", rng.choice(settled[drawn]), 2, Choice(drawn))


def _which(shown: tuple[bool | None, ...]) -> Which:
    if shown[0] and shown[1]:
        return "both"
    return "first" if shown[0] else ("second" if shown[1] else "neither")
