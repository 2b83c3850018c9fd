"""Typed statements about a scene, and whether they hold.

A statement speaks of objects through descriptions ("a small red cube", "a cone", "an object") and is existential:
"a cube is left of a cone" holds when some cube is left of some cone. `holds` answers None where the picture leaves
room for doubt, for instance because only a hidden object would make the statement true.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from diorama.world.facts import (
    Event,
    PlaceKind,
    RelationKind,
    Visible,
    always_there,
    changes_size,
    events_of,
    is_seen,
    places,
    precedes,
    related,
)
from diorama.world.scene import Color, MotionKind, Pace, Scene, Shape, Size


@dataclass(frozen=True)
class Description:
    """The attributes that are mentioned; None where nothing is said."""

    shape: Shape | None = None
    color: Color | None = None
    size: Size | None = None

    def words(self) -> str:
        return " ".join(w for w in (self.size, self.color, self.shape or "object") if w)


@dataclass(frozen=True)
class Exists:
    what: Description


@dataclass(frozen=True)
class Count:
    """There are exactly `number` such objects."""

    what: Description
    number: int


@dataclass(frozen=True)
class Relation:
    first: Description
    relation: RelationKind
    second: Description


@dataclass(frozen=True)
class Place:
    what: Description
    place: PlaceKind


@dataclass(frozen=True)
class Does:
    """An object does `motion`, at `pace` if one is given."""

    what: Description
    motion: MotionKind
    pace: Pace | None = None


@dataclass(frozen=True)
class Before:
    """`first` is over before `second` starts."""

    first: Does
    second: Does


Statement = Exists | Count | Relation | Place | Does | Before


def describe(scene: Scene, index: int, *parts: str) -> Description:
    """The description of one object by the named parts out of shape, color and size."""
    thing = scene.objects[index]
    return Description(
        shape=thing.shape if "shape" in parts else None,
        color=thing.color if "color" in parts else None,
        size=thing.size if "size" in parts else None,
    )


def fits(scene: Scene, index: int, what: Description) -> bool | None:
    """Whether the description fits the object; None when that hangs on the size of one that changes its size."""
    thing = scene.objects[index]
    if what.shape not in (None, thing.shape) or what.color not in (None, thing.color):
        return False
    if what.size is None:
        return True
    return None if changes_size(scene, index) else what.size == thing.size


def is_unique(scene: Scene, index: int, what: Description) -> bool:
    """Whether the description fits this object and certainly no other, hidden ones included."""
    others = (i for i in range(len(scene.objects)) if i != index)
    return fits(scene, index, what) is True and all(fits(scene, i, what) is False for i in others)


def _any(values: Iterable[bool | None]) -> bool | None:
    found = list(values)
    return True if True in found else (None if None in found else False)


def _both(first: bool | None, second: bool | None) -> bool | None:
    if first is False or second is False:
        return False
    return True if first and second else None


def _fits_seen(scene: Scene, index: int, what: Description, visible: Visible) -> bool | None:
    """Like `fits`, but an object that cannot be seen well makes nothing true."""
    value = fits(scene, index, what)
    return value if value is False or is_seen(index, visible) else None


def _does(scene: Scene, event: Event, claim: Does, visible: Visible) -> bool | None:
    if event.motion.kind != claim.motion or claim.pace not in (None, event.motion.pace):
        return False
    return _fits_seen(scene, event.index, claim.what, visible)


def _relates(scene: Scene, a: int, b: int, claim: Relation, visible: Visible) -> bool | None:
    fitting = _both(
        _fits_seen(scene, a, claim.first, visible), _fits_seen(scene, b, claim.second, visible)
    )
    return False if fitting is False else _both(fitting, related(scene, a, b, claim.relation))


def holds(statement: Statement, scene: Scene, visible: Visible = None) -> bool | None:
    """Whether the statement is true of the scene: True, False, or None when it cannot be settled by looking."""
    indices = range(len(scene.objects))
    if isinstance(statement, Exists):
        return _any(_fits_seen(scene, i, statement.what, visible) for i in indices)
    if isinstance(statement, Count):
        values = [_fits_seen(scene, i, statement.what, visible) for i in indices]
        steady = all(always_there(scene, i) for i in indices if values[i] is not False)
        sure, possible = values.count(True), len(values) - values.count(False)
        if not sure <= statement.number <= possible:
            return False if steady else None
        return True if sure == possible and steady else None
    if isinstance(statement, Relation):
        return _any(_relates(scene, a, b, statement, visible) for a in indices for b in indices if a != b)
    if isinstance(statement, Place):
        return _any(
            _both(_fits_seen(scene, i, statement.what, visible), places(scene, i)[statement.place])
            for i in indices
        )
    happenings = [event for i in indices for event in events_of(scene, i)]
    if isinstance(statement, Does):
        return _any(_does(scene, event, statement, visible) for event in happenings)
    return _any(
        _both(
            _both(_does(scene, a, statement.first, visible), _does(scene, b, statement.second, visible)),
            precedes(a, b),
        )
        for a in happenings
        for b in happenings
        if a != b
    )
