"""Contrast captions of VideoCon's seven kinds (arXiv 2311.10111, section 3), with exact truth.

A caption is a few true typed statements about different objects. Its contrast caption changes one slot of one
statement (or adds a statement, or swaps two events) so that this statement is certainly false, and keeps every
other word. Wrong values are drawn like right ones, and no caption contradicts itself, so that the text alone does
not give the answer away.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from random import Random
from typing import Literal, get_args

from diorama.errors import InputError
from diorama.world.captions import definable, does, mentioned, name_of, noun, realize, true_relations
from diorama.world.facts import (
    DEPTHS,
    OPPOSITE,
    PLACES,
    TRANSLATIONS,
    TURNING_SHAPES,
    PlaceKind,
    Visible,
    events,
    is_seen,
    places,
    precedes,
)
from diorama.world.references import is_usual
from diorama.world.sampling import NOVEL_MOTIONS
from diorama.world.scene import COLORS, MOTIONS, SHAPES, SIZES, MotionKind, Scene
from diorama.world.statements import (
    Before,
    Count,
    Description,
    Does,
    Exists,
    Place,
    Relation,
    Statement,
    describe,
    fits,
    holds,
)
from diorama.world.vocabulary import BARE_VERBS, VERBS, a, number_word, plural

ContrastKind = Literal["object", "action", "attribute", "relation", "hallucination", "count", "event"]
CONTRAST_KINDS: tuple[ContrastKind, ...] = get_args(ContrastKind)
MIRRORED: dict[PlaceKind, PlaceKind] = {"left": "right", "right": "left", "front": "back", "back": "front"}


@dataclass(frozen=True)
class Claim:
    """A true statement and the objects that it speaks of."""

    statement: Statement
    about: frozenset[int]


@dataclass(frozen=True)
class Contrast:
    """A true caption, a false one that differs in one thing, and one sentence on what is wrong with it.

    `statements` and `contrast_statements` are what the captions say, in order; `false` is the statement of the
    second that does not hold.
    """

    kind: ContrastKind
    caption: str
    contrast_caption: str
    explanation: str
    statements: tuple[Statement, ...]
    contrast_statements: tuple[Statement, ...]
    false: Statement


def contrasts(
    scene: Scene,
    rng: Random,
    *,
    kinds: Iterable[ContrastKind] | None = None,
    visible: Visible = None,
) -> list[Contrast]:
    """One contrast for each kind that the scene supports, in the order asked.

    `kinds` limits the kinds (default: all seven); pictures have no `action` and no `event`. Raises InputError for
    an unknown kind.
    """
    found = []
    for kind in CONTRAST_KINDS if kinds is None else kinds:
        if kind not in CONTRAST_KINDS:
            raise InputError(f"there are no {kind!r} contrasts; the kinds are {', '.join(CONTRAST_KINDS)}.")
        drawn = _contrast(scene, rng, kind, visible)
        if drawn is not None:
            found.append(drawn)
    return found


def _contrast(scene: Scene, rng: Random, kind: ContrastKind, visible: Visible) -> Contrast | None:
    claims = true_claims(scene, rng, visible)
    rng.shuffle(claims)
    if kind == "hallucination":
        return _hallucination(scene, rng, claims, visible)
    order = sorted(claims, key=lambda c: isinstance(c.statement, Exists)) if rng.random() < 0.7 else claims
    if kind == "count":
        order = _evenly(rng, claims)
    for claim in order:
        changed = _change(scene, rng, kind, claim, claims, visible)
        if changed is None:
            continue
        context = _context(rng, claims, claim.about, rng.choice((0, 1, 1, 2)))
        place = rng.randint(0, len(context))
        true = [*context[:place], claim.statement, *context[place:]]
        false = [*context[:place], changed, *context[place:]]
        text = _explanation(scene, kind, claim.statement, changed)
        return _pair(scene, rng, kind, true, false, changed, text)
    return None


def _pair(
    scene: Scene,
    rng: Random,
    kind: ContrastKind,
    true: list[Statement],
    false: list[Statement],
    changed: Statement,
    explanation: str,
) -> Contrast:
    """Put both lists into the same words."""
    seed = rng.getrandbits(64)
    definite = definable(true, scene)
    return Contrast(
        kind=kind,
        caption=realize(true, definite, Random(seed)),
        contrast_caption=realize(false, [*definite, False][: len(false)], Random(seed)),
        explanation=explanation,
        statements=tuple(true),
        contrast_statements=tuple(false),
        false=changed,
    )


def true_claims(scene: Scene, rng: Random, visible: Visible = None) -> list[Claim]:
    """True statements of every type about the objects that can be seen."""
    seen = [i for i in range(len(scene.objects)) if is_seen(i, visible)]
    claims = [Claim(Exists(describe(scene, i, "size", "color", "shape")), frozenset((i,))) for i in seen]
    for x, relation, y in true_relations(scene, visible):
        names = (name_of(scene, x, rng, visible), name_of(scene, y, rng, visible))
        claims.append(Claim(Relation(names[0], relation, names[1]), frozenset((x, y))))
    for i in seen:
        for place in PLACES:
            if places(scene, i)[place]:
                claims.append(Claim(Place(name_of(scene, i, rng, visible), place), frozenset((i,))))
    happening = events(scene, visible)
    told = [does(scene, event, rng, visible, rng.random() < 0.5) for event in happening]
    claims += [Claim(d, frozenset((e.index,))) for d, e in zip(told, happening, strict=True)]
    for first, d in zip(happening, told, strict=True):
        for second, other in zip(happening, told, strict=True):
            if first != second and precedes(first, second):
                claims.append(Claim(Before(d, other), frozenset((first.index, second.index))))
    whats = [Description(), *(Description(color=c) for c in COLORS), *(Description(shape=s) for s in SHAPES)]
    for what in whats:
        about = frozenset(i for i in range(len(scene.objects)) if fits(scene, i, what))
        if about and holds(Count(what, len(about)), scene, visible):
            claims.append(Claim(Count(what, len(about)), about))
    return [claim for claim in claims if holds(claim.statement, scene, visible)]


def _context(rng: Random, claims: list[Claim], about: frozenset[int], most: int) -> list[Statement]:
    """Up to `most` true statements that speak of no object twice and of none in `about`."""
    taken = set(about)
    chosen: list[Statement] = []
    for claim in rng.sample(claims, len(claims)):
        if len(chosen) < most and not taken & claim.about and not isinstance(claim.statement, Count):
            chosen.append(claim.statement)
            taken |= claim.about
    return chosen


def _change(
    scene: Scene, rng: Random, kind: ContrastKind, claim: Claim, claims: list[Claim], visible: Visible
) -> Statement | None:
    """The statement with one slot of the kind changed so that it is certainly false, or None."""
    statement = claim.statement
    options: list[Statement] = []
    if kind in ("object", "attribute"):
        options = _redescribed(scene, rng, kind, statement)
    elif kind == "action" and isinstance(statement, Does):
        options = [replace(statement, motion=m) for m in _other_motions(scene, rng, statement)]
    elif kind == "relation" and isinstance(statement, Relation):
        options = [replace(statement, relation=OPPOSITE[statement.relation])]
    elif kind == "relation" and isinstance(statement, Place) and statement.place in MIRRORED:
        options = [replace(statement, place=MIRRORED[statement.place])]
    elif kind == "count" and isinstance(statement, Count):
        options = _recounted(rng, statement, claims)
    elif kind == "event" and isinstance(statement, Before):
        options = [Before(statement.second, statement.first)]
    return next((o for o in options if holds(o, scene, visible) is False), None)


def _redescribed(
    scene: Scene, rng: Random, kind: Literal["object", "attribute"], statement: Statement
) -> list[Statement]:
    if isinstance(statement, Count | Before):
        return []
    changed: list[Statement] = []
    for position, what in enumerate(mentioned(statement)):
        for other in _other_descriptions(kind, what):
            if not is_usual(scene, other):
                continue
            if isinstance(statement, Relation):
                first = position == 0
                changed.append(replace(statement, first=other) if first else replace(statement, second=other))
            elif not isinstance(statement, Does) or is_plausible(scene, other, statement.motion):
                changed.append(replace(statement, what=other))
    rng.shuffle(changed)
    return changed


def _other_descriptions(kind: Literal["object", "attribute"], what: Description) -> list[Description]:
    if kind == "object":
        return [] if what.shape is None else [replace(what, shape=s) for s in SHAPES if s != what.shape]
    colors = [] if what.color is None else [replace(what, color=c) for c in COLORS if c != what.color]
    sizes = [] if what.size is None else [replace(what, size=s) for s in SIZES if s != what.size]
    return colors + sizes


def is_plausible(scene: Scene, what: Description, motion: MotionKind) -> bool:
    """Whether such an object could do that in a scene of the same split."""
    if what.shape is None:
        return True
    if motion == "spin" and what.shape not in TURNING_SHAPES:
        return False
    novel = any((o.shape, m.kind) in NOVEL_MOTIONS for o in scene.objects for m in o.motions)
    return novel or (what.shape, motion) not in NOVEL_MOTIONS


def _other_motions(scene: Scene, rng: Random, statement: Does) -> list[MotionKind]:
    """Other motions in random order, each about as likely as in the world."""
    weights = {m: 2.0 if m in TRANSLATIONS[:4] or m == "spin" else 1.0 for m in MOTIONS}
    paced = statement.pace is not None
    allowed: list[MotionKind] = [
        m
        for m in MOTIONS
        if m != statement.motion
        and is_plausible(scene, statement.what, m)
        and not (paced and m in ("appear", "vanish"))
    ]
    return sorted(allowed, key=lambda m: rng.random() ** (1 / weights[m]), reverse=True)


def _recounted(rng: Random, statement: Count, claims: list[Claim]) -> list[Statement]:
    """Wrong numbers, drawn so that a number is as often wrong as right of the same sort of group.

    The number of all objects is exchanged for any other of 1..5; that of a color or shape for the number of
    another such group of the scene, where there is one.
    """
    numbers = list(range(1, 6))
    if statement.what != Description():
        groups = [c.statement for c in claims if isinstance(c.statement, Count)]
        numbers = sorted({g.number for g in groups if g.what != Description()})
    wrong = [n for n in numbers if n != statement.number]
    return [replace(statement, number=n) for n in rng.sample(wrong, len(wrong))]


def _evenly(rng: Random, claims: list[Claim]) -> list[Claim]:
    """The counts of all objects, or those of groups, one for each number, so that `one` does not dominate."""
    total = rng.random() < 0.5
    counts: dict[int, Claim] = {}
    for claim in claims:
        if isinstance(claim.statement, Count) and (claim.statement.what == Description()) == total:
            counts[claim.statement.number] = claim
    return rng.sample(list(counts.values()), len(counts))


def _hallucination(scene: Scene, rng: Random, claims: list[Claim], visible: Visible) -> Contrast | None:
    """A caption with one thing more than there is."""
    existing = [c for c in claims if isinstance(c.statement, Exists)]
    if not existing:
        return None
    true = [c.statement for c in existing[: rng.randint(1, len(existing))]]
    colors, shapes, sizes = list(COLORS), list(SHAPES), list(SIZES)
    absent = [Description(s, c, z) for s in shapes for c in colors for z in sizes]
    rng.shuffle(absent)
    for what in absent:
        added = Exists(what)
        if is_usual(scene, what) and holds(Exists(replace(what, size=None)), scene, visible) is False:
            place = rng.randint(0, len(true))
            false = [*true[:place], added, *true[place:]]
            return _pair(
                scene, rng, "hallucination", true, false, added, f"there is no {what.color} {what.shape}"
            )
    return None


def _explanation(scene: Scene, kind: ContrastKind, true: Statement, false: Statement) -> str:
    """One sentence that says what is so and what is not."""
    if isinstance(true, Before) and isinstance(false, Before):
        return f"{_told(scene, true.first)} before {_told(scene, true.second)}, not after"
    if isinstance(true, Count) and isinstance(false, Count):
        several = plural(true.what.color, true.what.shape, true.what.size)
        one = f"there is one {true.what.words()}"
        there = one if true.number == 1 else f"there are {number_word(true.number)} {several}"
        return f"{there}, not {number_word(false.number)}"
    if isinstance(true, Does) and isinstance(false, Does) and kind == "action":
        return f"{_told(scene, replace(true, pace=None))}, it does not {BARE_VERBS[false.motion]}"
    if isinstance(true, Place) and isinstance(false, Place) and kind == "relation":
        at = "at" if true.place in DEPTHS else "on"
        return f"{_the(scene, true.what)} is {at} the {true.place}, not {at} the {false.place}"
    if isinstance(true, Relation) and isinstance(false, Relation) and kind == "relation":
        first, second = _the(scene, true.first), _the(scene, true.second)
        return f"{first} is {true.relation} {second}, not {false.relation} it"
    was, now = next((x, y) for x, y in zip(mentioned(true), mentioned(false), strict=True) if x != y)
    if kind == "object":
        rest = replace(was, shape=None)
        return f"{_the(scene, rest)} is {a(str(was.shape))}, not {a(str(now.shape))}"
    if was.color != now.color:
        return f"{_the(scene, replace(was, color=None))} is {was.color}, not {now.color}"
    return f"{_the(scene, replace(was, size=None))} is {was.size}, not {now.size}"


def _the(scene: Scene, what: Description) -> str:
    several = sum(fits(scene, i, what) is not False for i in range(len(scene.objects))) > 1
    return noun(what, definite=not several)


def _told(scene: Scene, claim: Does) -> str:
    return f"{_the(scene, claim.what)} {VERBS[claim.motion]}"
