"""Captions: typed statements put into varied words.

`plan` chooses true statements about a scene, `realize` puts them into words; a contrast caption is the same plan
with one statement changed and the same words around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Literal

from diorama.world.facts import (
    OPPOSITE,
    PLACES,
    RELATIONS,
    Event,
    RelationKind,
    Visible,
    changes_size,
    events,
    is_seen,
    places,
    precedes,
    related,
)
from diorama.world.references import refer
from diorama.world.scene import Scene
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
from diorama.world.vocabulary import SYNONYMS, VERBS, a, number_word, plural

Detail = Literal["full", "brief", "relations"]
PLACE_WORDS = {
    "left": ("on the left", "on the left side", "at the left"),
    "middle": ("in the middle",),
    "right": ("on the right", "on the right side", "at the right"),
    "front": ("at the front",),
    "back": ("at the back",),
}
RELATION_WORDS: dict[RelationKind, tuple[str, ...]] = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "in front of": ("in front of",),
    "behind": ("behind",),
    "on top of": ("on top of",),
    "under": ("under",),
}


def name_of(scene: Scene, index: int, rng: Random, visible: Visible) -> Description:
    """A unique description, or the full one where nothing is unique."""
    return refer(scene, index, rng, visible) or full_name(scene, index)


def full_name(scene: Scene, index: int) -> Description:
    """Size, color and shape; without the size of an object that changes it."""
    parts = ("color", "shape") if changes_size(scene, index) else ("size", "color", "shape")
    return describe(scene, index, *parts)


def true_relations(scene: Scene, visible: Visible = None) -> list[tuple[int, RelationKind, int]]:
    """Every relation that certainly holds between two objects that can be seen."""
    seen = [i for i in range(len(scene.objects)) if is_seen(i, visible)]
    return [(x, r, y) for x in seen for y in seen if x != y for r in RELATIONS if related(scene, x, y, r)]


def relation_statements(scene: Scene, rng: Random, visible: Visible, most: int) -> list[Statement]:
    """Up to `most` true relations, at most one for a pair of objects."""
    found = true_relations(scene, visible)
    rng.shuffle(found)
    found.sort(key=lambda triple: triple[1] not in ("on top of", "under"))
    chosen: list[Statement] = []
    pairs: set[frozenset[int]] = set()
    for x, relation, y in found:
        if frozenset((x, y)) in pairs or len(chosen) == most:
            continue
        pairs.add(frozenset((x, y)))
        chosen.append(Relation(name_of(scene, x, rng, visible), relation, name_of(scene, y, rng, visible)))
    return chosen


def place_statements(scene: Scene, rng: Random, visible: Visible, most: int) -> list[Statement]:
    """Up to `most` statements of where an object is in the picture."""
    found = [
        (i, place)
        for i in range(len(scene.objects))
        if is_seen(i, visible)
        for place in PLACES
        if places(scene, i)[place]
    ]
    rng.shuffle(found)
    return [Place(name_of(scene, i, rng, visible), place) for i, place in found[:most]]


def does(scene: Scene, event: Event, rng: Random, visible: Visible, pace: bool) -> Does:
    """What an event is, in a statement; with its pace where it has one and `pace` asks for it."""
    paced = pace and event.motion.kind not in ("appear", "vanish")
    name = name_of(scene, event.index, rng, visible)
    return Does(name, event.motion.kind, event.motion.pace if paced else None)


def motion_statements(scene: Scene, rng: Random, visible: Visible) -> list[Statement]:
    """What happens in a clip: pairs in order where the order is clear, single events otherwise."""
    happening = events(scene, visible)
    claims = [does(scene, event, rng, visible, rng.random() < 0.6) for event in happening]
    chosen: list[Statement] = []
    position = 0
    while position < len(happening):
        following = position + 1
        if following < len(happening) and precedes(happening[position], happening[following]):
            chosen.append(Before(claims[position], claims[following]))
            position += 2
        else:
            chosen.append(claims[position])
            position += 1
    return chosen


def plan(scene: Scene, rng: Random, *, detail: Detail = "full", visible: Visible = None) -> list[Statement]:
    """True statements for one caption, in the order in which they will be said."""
    moving = motion_statements(scene, rng, visible)
    if detail == "brief":
        chosen = moving[:1] or relation_statements(scene, rng, visible, 1)
        return chosen or _existence(scene, visible)[:1]
    relations = relation_statements(scene, rng, visible, 3 if detail == "relations" else 2)
    if detail == "relations":
        return [*moving, *relations] or place_statements(scene, rng, visible, 2) or _existence(scene, visible)
    count = Count(Description(), len(scene.objects))
    counted: list[Statement] = [count] if holds(count, scene, visible) else []
    existence = _existence(scene, visible)
    rng.shuffle(existence)
    rest: list[list[Statement]] = [relations, place_statements(scene, rng, visible, 1), moving]
    rng.shuffle(rest)
    return [*counted, *existence, *(s for group in rest for s in group)]


def _existence(scene: Scene, visible: Visible) -> list[Statement]:
    seen = [i for i in range(len(scene.objects)) if is_seen(i, visible)]
    return [Exists(full_name(scene, i)) for i in seen]


def definable(statements: Sequence[Statement], scene: Scene) -> list[bool]:
    """For each statement whether its descriptions fit so few objects of the scene that "the" may be said."""
    return [not any(_is_ambiguous(scene, what) for what in mentioned(s)) for s in statements]


def realize(statements: Sequence[Statement], definite: Sequence[bool], rng: Random) -> str:
    """The statements in words; where `definite` allows it, "the" is said half of the time.

    The same generator state and `definite` give the same wording around a changed statement.
    """
    sentences: list[str] = []
    things = [s.what for s in statements if isinstance(s, Exists)]
    counts = [s for s in statements if isinstance(s, Count)]
    style = rng.random()
    if things:
        listed = _join(_grouped(things))
        total = [c for c in counts if c.what == Description()]
        counts = [c for c in counts if c.what != Description()]
        if total:
            number = total[0].number
            head = f"{number_word(number)} {'object' if number == 1 else 'objects'}"
            verb = "there is" if number == 1 else "there are"
            sentences.append(f"{verb} {head}: {listed}" if style < 0.5 else f"{head}: {listed}")
        else:
            sentences.append(f"there is {listed}" if style < 0.5 else listed)
    sentences += [
        _sentence(s, the, rng)
        for s, the in zip(statements, definite, strict=True)
        if not isinstance(s, Exists | Count)
    ]
    sentences += [_sentence(c, False, rng) for c in counts]
    return ". ".join(sentences)


def _grouped(things: list[Description]) -> list[str]:
    phrases: list[str] = []
    for what in dict.fromkeys(things):
        number = things.count(what)
        several = plural(what.color, what.shape, what.size)
        phrases.append(a(what.words()) if number == 1 else f"{number_word(number)} {several}")
    return phrases


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def noun(what: Description, definite: bool) -> str:
    """The description with an article."""
    return f"the {what.words()}" if definite else a(what.words())


def mentioned(statement: Statement) -> tuple[Description, ...]:
    """The descriptions in a statement."""
    if isinstance(statement, Relation):
        return (statement.first, statement.second)
    if isinstance(statement, Before):
        return (statement.first.what, statement.second.what)
    return (statement.what,)


def _is_ambiguous(scene: Scene, what: Description) -> bool:
    return sum(fits(scene, i, what) is not False for i in range(len(scene.objects))) > 1


def verb_phrase(claim: Does, salt: float) -> str:
    """What the object does, in one of several wordings, with the pace if the claim gives one.

    The wording hangs on `salt` and what is done alone, so that two events keep their words when they change places.
    """
    pick = Random(f"{salt} {claim.motion} {claim.pace}").random()
    wordings = (VERBS[claim.motion], *SYNONYMS[claim.motion])
    words = wordings[int(pick * len(wordings))]
    return f"{words} {claim.pace}" if claim.pace else words


def _sentence(statement: Statement, may_define: bool, rng: Random) -> str:
    definite = rng.random() < 0.5 and may_define
    style, wording = rng.random(), rng.random()
    if isinstance(statement, Relation):
        options = RELATION_WORDS[statement.relation]
        words = options[int(wording * len(options))]
        first, second = noun(statement.first, definite), noun(statement.second, definite)
        return f"{first} is {words} {second}" if style < 0.6 else f"{first} {words} {second}"
    if isinstance(statement, Place):
        options = PLACE_WORDS[statement.place]
        words = options[int(wording * len(options))]
        what = noun(statement.what, definite)
        return f"{what} is {words}" if style < 0.6 else f"{words} is {what}"
    if isinstance(statement, Does):
        return f"{noun(statement.what, definite)} {verb_phrase(statement, wording)}"
    if isinstance(statement, Before):
        first = f"{noun(statement.first.what, definite)} {verb_phrase(statement.first, wording)}"
        second = f"{noun(statement.second.what, definite)} {verb_phrase(statement.second, wording)}"
        if style < 0.5:
            return f"first {first}, then {second}"
        return f"{first} before {second}" if style < 0.75 else f"after {first}, {second}"
    if isinstance(statement, Count):
        if statement.number == 1:
            return f"there is one {statement.what.words()}"
        several = plural(statement.what.color, statement.what.shape, statement.what.size)
        return f"there are {number_word(statement.number)} {several}"
    return f"there is {a(statement.what.words())}"


def caption(scene: Scene, rng: Random, *, detail: Detail = "full", visible: Visible = None) -> str:
    """One true caption.

    `full` counts and names every object that can be seen and says how they stand and what happens; `relations`
    is about how they stand and what happens; `brief` is one sentence. `visible` marks the objects that can be
    seen well enough to be spoken of. Every choice is drawn from `rng`.
    """
    statements = plan(scene, rng, detail=detail, visible=visible)
    return realize(statements, definable(statements, scene), rng)


def paraphrases(scene: Scene, n: int, rng: Random, *, visible: Visible = None) -> list[str]:
    """`n` different true captions with the same content in other words and another order.

    Fewer come back when the scene allows fewer wordings.
    """
    statements = plan(scene, rng, visible=visible)
    found: dict[str, None] = {}
    for _ in range(20 * n):
        if len(found) == n:
            break
        order = [_turned(s, rng) for s in statements]
        rng.shuffle(order)
        found[realize(order, definable(order, scene), rng)] = None
    return list(found)


def _turned(statement: Statement, rng: Random) -> Statement:
    if isinstance(statement, Relation) and rng.random() < 0.5:
        return Relation(statement.second, OPPOSITE[statement.relation], statement.first)
    return statement
