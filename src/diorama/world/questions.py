"""Questions about a scene that have exactly one right, short answer.

Every kind first lists all (question, answer) pairs that the scene settles beyond doubt, then draws the answer
before it draws the question, so that answers are balanced; yes/no questions are only asked where both answers are
possible. The kinds for clips are in `diorama.world.happenings`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Literal, get_args

from diorama.errors import InputError
from diorama.world.facts import (
    DEPTHS,
    SIDES,
    RelationKind,
    Visible,
    changes_size,
    is_seen,
    nearer,
    places,
    related,
)
from diorama.world.happenings import CLIP_PAIRS, Pair, phrase
from diorama.world.references import answer_names, is_usual, references
from diorama.world.scene import COLORS, SHAPES, SIZES, Scene
from diorama.world.statements import Count, Description, Exists, holds
from diorama.world.vocabulary import NUMBERS, a, number_word, plural

ImageKind = Literal["color", "shape", "size", "count", "exists", "where", "relation", "compare", "same"]
ClipKind = Literal["direction", "moved", "order", "motion", "pace", "times"]
Kind = ImageKind | ClipKind

IMAGE_KINDS: tuple[ImageKind, ...] = get_args(ImageKind)
CLIP_KINDS: tuple[ClipKind, ...] = get_args(ClipKind)
KINDS: tuple[Kind, ...] = (*IMAGE_KINDS, *CLIP_KINDS)
ASKED_RELATIONS: tuple[RelationKind, ...] = ("left of", "right of", "in front of", "behind")
RARER = {"zero": 0.4, "one": 0.5, "stays still": 0.3, "nothing": 0.3}
"""Weights of answers that nearly every scene offers; every other answer has weight 1."""
MOST_CHOICES = 4


@dataclass(frozen=True)
class Question:
    """A question, its one right answer (at most three words), and the choices, which include it once."""

    kind: Kind
    question: str
    answer: str
    choices: tuple[str, ...]


def questions(
    scene: Scene,
    rng: Random,
    *,
    n: int | None = None,
    kinds: Iterable[Kind] | None = None,
    visible: Visible = None,
) -> list[Question]:
    """Different questions about the scene, in random order; every choice is drawn from `rng`.

    Without `n` one of each kind that the scene supports; with `n` up to that many, the kinds taken in turn.
    `kinds` limits the kinds (default: all; those about clips are only asked of scenes with a duration). `visible`
    marks the objects that can be seen well enough: no answer depends on the others.
    Raises InputError for unknown kinds and a length of `visible` that is not the number of objects.
    """
    wanted = list(dict.fromkeys(KINDS if kinds is None else kinds))
    unknown = [k for k in wanted if k not in KINDS]
    if unknown:
        raise InputError(f"there are no {unknown[0]!r} questions; the kinds are {', '.join(KINDS)}.")
    if visible is not None and len(visible) != len(scene.objects):
        raise InputError(
            f"visible has {len(visible)} values for {len(scene.objects)} objects. Pass one for each object."
        )
    rng.shuffle(wanted)
    pairs = {kind: pairs_of(scene, kind, visible) for kind in wanted}
    found: list[Question] = []
    asked: set[str] = set()
    limit = len(wanted) if n is None else n
    while len(found) < limit:
        before = len(found)
        for kind in wanted:
            question = _draw(scene, kind, [p for p in pairs[kind] if p.question not in asked], rng)
            if question is not None and len(found) < limit:
                found.append(question)
                asked.add(question.question)
        if len(found) == before or n is None:
            break
    return found


def pairs_of(scene: Scene, kind: Kind, visible: Visible = None) -> list[Pair]:
    """Every question of the kind that the scene settles, with its answer."""
    if kind in CLIP_PAIRS:
        return CLIP_PAIRS[kind](scene, visible) if scene.duration > 0 else []
    return _IMAGE_PAIRS[kind](scene, visible)


def _draw(scene: Scene, kind: Kind, pairs: list[Pair], rng: Random) -> Question | None:
    """One question: first its form, then its answer, then which."""
    forms = sorted({p.form for p in pairs})
    rng.shuffle(forms)
    for form in forms:
        of_form = [p for p in pairs if p.form == form]
        answers = sorted({p.answer for p in of_form})
        if set(answers) <= {"yes", "no"} and len(answers) < 2:
            continue
        answer = rng.choices(answers, [RARER.get(x, 1.0) for x in answers])[0]
        drawn = rng.choice([p for p in of_form if p.answer == answer])
        return Question(kind, drawn.question, drawn.answer, _choices(scene, drawn, rng))
    return None


def _choices(scene: Scene, pair: Pair, rng: Random) -> tuple[str, ...]:
    """The right answer among up to three wrong ones of the same sort, those from the scene first."""
    if pair.wrong:
        likely, other = list(pair.wrong), list[str]()
    elif pair.answer in ("yes", "no"):
        return ("yes", "no")
    elif pair.answer in NUMBERS:
        number = NUMBERS.index(pair.answer)
        likely = [number_word(m) for m in (number - 1, number + 1, number + 2, number - 2) if 0 <= m <= 6]
        other = []
    elif pair.answer in SIZES:
        likely, other = list(SIZES), []
    elif pair.answer in COLORS:
        likely, other = [o.color for o in scene.objects], list(COLORS)
    elif pair.answer in SHAPES:
        likely, other = [o.shape for o in scene.objects], list(SHAPES)
    else:
        likely = [f"{o.color} {o.shape}" for o in scene.objects]
        other = [f"{c} {s}" for c in COLORS for s in SHAPES]
        if len(pair.answer.split()) == 3:
            likely = [o.name for o in scene.objects]
            other = [f"{z} {c} {s}" for z in SIZES for c in COLORS for s in SHAPES]
    wrong: list[str] = []
    for pool in (likely, other):
        pool = [w for w in dict.fromkeys(pool) if w != pair.answer and w not in wrong]
        rng.shuffle(pool)
        wrong += pool
    mixed = [pair.answer, *wrong[: MOST_CHOICES - 1]]
    rng.shuffle(mixed)
    return tuple(mixed)


def _attribute_pairs(scene: Scene, visible: Visible, attribute: Literal["color", "shape", "size"]) -> list[Pair]:
    pairs = []
    for i, thing in enumerate(scene.objects):
        if attribute == "size" and changes_size(scene, i):
            continue
        for what in references(scene, i, visible, without=(attribute,)):
            pairs.append(Pair(f"what {attribute} is {phrase(what)}?", getattr(thing, attribute)))
        if len(scene.objects) == 1 and is_seen(i, visible):
            pairs.append(Pair(f"what {attribute} is the object?", getattr(thing, attribute)))
    return pairs


def _color_pairs(scene: Scene, visible: Visible) -> list[Pair]:
    return _attribute_pairs(scene, visible, "color")


def _shape_pairs(scene: Scene, visible: Visible) -> list[Pair]:
    return _attribute_pairs(scene, visible, "shape")


def _size_pairs(scene: Scene, visible: Visible) -> list[Pair]:
    return _attribute_pairs(scene, visible, "size")


def _count_pairs(scene: Scene, visible: Visible) -> list[Pair]:
    total = Description()
    several = [Description(color=c) for c in COLORS] + [Description(shape=s) for s in SHAPES]
    several += [Description(size=s) for s in SIZES]
    pairs = []
    for what in (total, *several):
        form = "total" if what == total else "some"
        for number in range(len(scene.objects) + 1):
            if holds(Count(what, number), scene, visible):
                asked = f"how many {plural(what.color, what.shape, what.size)} are there?"
                pairs.append(Pair(asked, number_word(number), form))
    return pairs


def _exists_pairs(scene: Scene, visible: Visible) -> list[Pair]:
    """Whether there is such an object; the absent ones are mostly made of attributes that the scene has."""
    colors, shapes = {o.color for o in scene.objects}, {o.shape for o in scene.objects}
    candidates = [Description(shape=s) for s in SHAPES]
    near = [Description(color=c, shape=s) for c in COLORS for s in SHAPES if c in colors or s in shapes]
    near = [what for what in near if is_usual(scene, what)]
    pairs = []
    for form, whats in (("shape", candidates), ("color", near)):
        for what in whats:
            value = holds(Exists(what), scene, visible)
            if value is not None:
                pairs.append(Pair(f"is there {a(what.words())}?", "yes" if value else "no", form))
    return pairs


def _where_pairs(scene: Scene, visible: Visible) -> list[Pair]:
    pairs = []
    for i in range(len(scene.objects)):
        held = places(scene, i)
        for what in references(scene, i, visible):
            for side in SIDES:
                if held[side]:
                    pairs.append(Pair(f"where is {phrase(what)}?", side, "side", SIDES))
            for side in DEPTHS:
                if held[side]:
                    asked = f"is {phrase(what)} at the front or at the back?"
                    pairs.append(Pair(asked, side, "depth", DEPTHS))
    return pairs


def _relation_pairs(scene: Scene, visible: Visible) -> list[Pair]:
    pairs = []
    count = len(scene.objects)
    names = [references(scene, i, visible) for i in range(count)]
    for anchor in range(count):
        for relation in (*ASKED_RELATIONS, "on top of"):
            values = [related(scene, i, anchor, relation) for i in range(count) if i != anchor]
            others = [i for i in range(count) if i != anchor]
            if values.count(True) == 1 and values.count(False) == len(values) - 1:
                there = others[values.index(True)]
                for what in names[anchor]:
                    pairs += _what_is(scene, there, relation, what, visible)
            for other, value in zip(others, values, strict=True):
                if value is None or relation == "on top of":
                    continue
                for first in names[other][:2]:
                    for second in names[anchor][:2]:
                        asked = f"is {phrase(first)} {relation} {phrase(second)}?"
                        pairs.append(Pair(asked, "yes" if value else "no", "yes or no"))
    return pairs


def _what_is(scene: Scene, there: int, relation: str, what: Description, visible: Visible) -> list[Pair]:
    if not is_seen(there, visible):
        return []
    thing, place = scene.objects[there], f"{relation} {phrase(what)}"
    pairs = [
        Pair(f"what color is the object {place}?", thing.color, "color of"),
        Pair(f"what shape is the object {place}?", thing.shape, "shape of"),
    ]
    name = answer_names(scene, there, visible)
    return pairs if name is None else [*pairs, Pair(f"what is {place}?", name, "what")]


def _compare_pairs(scene: Scene, visible: Visible) -> list[Pair]:
    """Which of two is nearer to the viewer, or larger."""
    pairs = []
    for i, first in enumerate(scene.objects):
        for j, second in enumerate(scene.objects):
            if i == j:
                continue
            for x in references(scene, i, visible, without=("size",)):
                for y in references(scene, j, visible, without=("size",)):
                    asked = f"{phrase(x)} or {phrase(y)}?"
                    two = (x.words(), y.words())
                    near = nearer(scene, i, j)
                    if near is not None and first.on is None and second.on is None:
                        pairs.append(Pair(f"which is nearer, {asked}", two[0 if near else 1], "nearer", two))
                    if first.size != second.size and not (changes_size(scene, i) or changes_size(scene, j)):
                        larger = two[0 if first.size == "large" else 1]
                        pairs.append(Pair(f"which is larger, {asked}", larger, "larger", two))
    return pairs


def _same_pairs(scene: Scene, visible: Visible) -> list[Pair]:
    """Whether two objects share a color, shape or size."""
    pairs = []
    for i, first in enumerate(scene.objects):
        for j, second in enumerate(scene.objects):
            for attribute in ("color", "shape", "size"):
                unsteady = changes_size(scene, i) or changes_size(scene, j)
                if i == j or (attribute == "size" and unsteady):
                    continue
                answer = "yes" if getattr(first, attribute) == getattr(second, attribute) else "no"
                for x in references(scene, i, visible, without=(attribute,)):
                    for y in references(scene, j, visible, without=(attribute,)):
                        asked = f"are {phrase(x)} and {phrase(y)} the same {attribute}?"
                        pairs.append(Pair(asked, answer, attribute))
    return pairs


_IMAGE_PAIRS: dict[str, Callable[[Scene, Visible], list[Pair]]] = {
    "color": _color_pairs,
    "shape": _shape_pairs,
    "size": _size_pairs,
    "count": _count_pairs,
    "exists": _exists_pairs,
    "where": _where_pairs,
    "relation": _relation_pairs,
    "compare": _compare_pairs,
    "same": _same_pairs,
}
