"""What is true of a scene beyond its attributes: places, relations and events, with margins.

Every fact is three-valued: True, False, or None where a person looking at the picture could disagree. Language
is only ever made from facts that are True or False. Distances are metres along the viewer's axes; `across` is
the position in the picture from -1 (left edge) to 1 (right edge). In a clip a place or relation must hold at
every moment at which the objects are there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

from diorama.world.scene import PROPORTIONS, RADIUS, Motion, Scene, Shape, state_at, view_position

RelationKind = Literal["left of", "right of", "in front of", "behind", "on top of", "under"]
PlaceKind = Literal["left", "middle", "right", "front", "back"]
Visible = Sequence[bool] | None
"""Whether each object can be seen well enough to be spoken of; None means all of them."""

RELATIONS: tuple[RelationKind, ...] = get_args(RelationKind)
PLACES: tuple[PlaceKind, ...] = get_args(PlaceKind)
SIDES: tuple[PlaceKind, ...] = PLACES[:3]
DEPTHS: tuple[PlaceKind, ...] = PLACES[3:]
OPPOSITE: dict[RelationKind, RelationKind] = {
    "left of": "right of",
    "right of": "left of",
    "in front of": "behind",
    "behind": "in front of",
    "on top of": "under",
    "under": "on top of",
}
TRANSLATIONS = ("left", "right", "towards", "away", "up", "down")
TURNING_SHAPES: tuple[Shape, ...] = ("cube", "pyramid")
"""Shapes that look different after a turn about the vertical; the others spin without anybody noticing."""

ACROSS_MARGIN = 0.14
SIDE_MARGIN = 0.35
DEPTH_MARGIN = 0.6
NEARER_MARGIN = 0.6
LEVEL_MARGIN = 0.25
MIDDLE_WITHIN = 0.14
SIDE_BEYOND = 0.28
FRONT_BEYOND = 0.7
GAP = 0.25
"""Seconds by which one event must start before another for it to be called first."""


@dataclass(frozen=True)
class Spot:
    """Where an object is at one moment: viewer's axes (metres), picture position, metres from the camera."""

    right: float
    away: float
    up: float
    across: float
    distance: float


@dataclass(frozen=True)
class Event:
    """One visible motion of object `index`."""

    index: int
    motion: Motion


def spot_at(scene: Scene, index: int, time: float) -> Spot | None:
    """The spot of an object at `time` seconds, or None while it is not there."""
    state = state_at(scene, index, time)
    if not state.present:
        return None
    thing = scene.objects[index]
    right, away, foot = view_position(scene, state.position)
    middle = foot + PROPORTIONS[thing.shape].height * RADIUS[thing.size] * state.scale / 2
    camera = scene.camera
    tilt = math.radians(camera.elevation)
    depth = camera.distance + away * math.cos(tilt) - (middle - 0.4) * math.sin(tilt)
    across = right / (depth * math.tan(math.radians(camera.field_of_view) / 2))
    eye = (0.0, -camera.distance * math.cos(tilt), 0.4 + camera.distance * math.sin(tilt))
    return Spot(right, away, foot, across, math.dist(eye, (right, away, middle)))


def moments(scene: Scene) -> list[float]:
    """The times, in seconds, at which something starts or ends: between them everything is monotone."""
    times = {0.0, scene.duration}
    for thing in scene.objects:
        for motion in thing.motions:
            times |= {motion.start, motion.end}
    return sorted(t for t in times if 0.0 <= t <= scene.duration)


def is_seen(index: int, visible: Visible) -> bool:
    """Whether the object may be spoken of."""
    return visible is None or bool(visible[index])


def changes_size(scene: Scene, index: int) -> bool:
    """Whether the object grows or shrinks, so that its size has no single answer."""
    return any(m.kind in ("grow", "shrink") for m in scene.objects[index].motions)


def always_there(scene: Scene, index: int) -> bool:
    """Whether the object neither appears nor vanishes."""
    return not any(m.kind in ("appear", "vanish") for m in scene.objects[index].motions)


def events_of(scene: Scene, index: int) -> list[Event]:
    """The motions of one object that can be seen, in order of their start."""
    thing = scene.objects[index]
    seen = [m for m in thing.motions if m.kind != "spin" or thing.shape in TURNING_SHAPES]
    return [Event(index, m) for m in sorted(seen, key=lambda m: (m.start, m.end))]


def events(scene: Scene, visible: Visible = None) -> list[Event]:
    """All visible motions of the objects that can be seen, in order of their start."""
    found = [e for i in range(len(scene.objects)) if is_seen(i, visible) for e in events_of(scene, i)]
    return sorted(found, key=lambda e: (e.motion.start, e.motion.end, e.index))


def precedes(first: Event, second: Event) -> bool | None:
    """True when `first` is over before `second` starts, False the other way round, None when they overlap."""
    if first.motion.end <= second.motion.start:
        return True
    if second.motion.end <= first.motion.start:
        return False
    return None


def _agree(values: list[bool | None]) -> bool | None:
    if values and all(v is True for v in values):
        return True
    if values and all(v is False for v in values):
        return False
    return None


def _sign(value: float, margin: float) -> int:
    return 0 if abs(value) < margin else (1 if value > 0 else -1)


def _related_at(scene: Scene, a: int, b: int, relation: RelationKind, time: float) -> bool | None:
    first, second = spot_at(scene, a, time), spot_at(scene, b, time)
    assert first is not None and second is not None
    if relation in ("left of", "right of"):
        side = _sign(second.right - first.right, SIDE_MARGIN)
        if side != _sign(second.across - first.across, ACROSS_MARGIN) or side == 0:
            return None
        return (side > 0) == (relation == "left of")
    if abs(first.up - second.up) > LEVEL_MARGIN:
        return None
    side = _sign(second.away - first.away, DEPTH_MARGIN)
    return None if side == 0 else (side > 0) == (relation == "in front of")


def _stacked(scene: Scene, upper: int, lower: int) -> bool | None:
    if scene.objects[upper].on != lower:
        return False
    pair = (*scene.objects[upper].motions, *scene.objects[lower].motions)
    return None if any(m.kind in (*TRANSLATIONS, "grow", "shrink") for m in pair) else True


@lru_cache(maxsize=1024)
def related(scene: Scene, a: int, b: int, relation: RelationKind) -> bool | None:
    """Whether object `a` is `relation` object `b`, whenever both are there."""
    times = [t for t in moments(scene) if state_at(scene, a, t).present and state_at(scene, b, t).present]
    if not times:
        return None
    if relation == "on top of":
        return _stacked(scene, a, b)
    if relation == "under":
        return _stacked(scene, b, a)
    if scene.objects[a].on == b or scene.objects[b].on == a:
        still = _stacked(scene, a, b) or _stacked(scene, b, a)
        return False if still else None
    return _agree([_related_at(scene, a, b, relation, t) for t in times])


def places(scene: Scene, index: int) -> dict[PlaceKind, bool | None]:
    """For each place in the picture whether the object is there as long as it is present."""
    found_at = [_place_of(s) for t in moments(scene) if (s := spot_at(scene, index, t)) is not None]
    found: dict[PlaceKind, bool | None] = {}
    for kind in SIDES:
        found[kind] = _agree([None if side is None else side == kind for side, _ in found_at])
    for kind in DEPTHS:
        found[kind] = _agree([None if depth is None else depth == kind for _, depth in found_at])
    return found


def place_at(scene: Scene, index: int, time: float) -> tuple[PlaceKind | None, PlaceKind | None]:
    """The side and the depth at which an object is at one moment, None where either is not beyond doubt: between two
    sides or depths, off the ground (which has no depth in the picture), or not there."""
    spot = spot_at(scene, index, time)
    return (None, None) if spot is None else _place_of(spot)


def _place_of(spot: Spot) -> tuple[PlaceKind | None, PlaceKind | None]:
    depth = _sign(spot.away, FRONT_BEYOND) if spot.up < LEVEL_MARGIN else 0
    return _side(spot.across), None if depth == 0 else "front" if depth < 0 else "back"


def _side(across: float) -> PlaceKind | None:
    if abs(across) < MIDDLE_WITHIN:
        return "middle"
    if abs(across) > SIDE_BEYOND:
        return "left" if across < 0 else "right"
    return None


@lru_cache(maxsize=1024)
def nearer(scene: Scene, a: int, b: int) -> bool | None:
    """Whether object `a` is nearer to the camera than object `b`, whenever both are there."""
    values: list[bool | None] = []
    for time in moments(scene):
        first, second = spot_at(scene, a, time), spot_at(scene, b, time)
        if first is not None and second is not None:
            gap = _sign(second.distance - first.distance, NEARER_MARGIN)
            values.append(None if gap == 0 else gap > 0)
    return _agree(values)
