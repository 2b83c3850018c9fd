"""Judging generated pictures and clips by what the oracle reads in them.

Each answer is True, False or None: None where the oracle is not sure enough, so that a judge can abstain.
"""

from __future__ import annotations

from collections.abc import Sequence

from diorama.world.readings import ImageReading, ReadObject, Track, VideoReading
from diorama.world.scene import MotionKind, Scene
from diorama.world.statements import Description, Statement, holds

LEAST = 0.6
"""Least confidence in an object on which a verdict may rest."""


def fits(thing: ReadObject | Track, what: Description) -> bool:
    """Whether shape, color and size are, as read, those that the description mentions."""
    return (what.shape in (None, thing.shape) and what.color in (None, thing.color)
            and what.size in (None, thing.size))


def has_object(reading: ImageReading | VideoReading, what: Description) -> bool | None:
    """Whether such an object is there; None where only an unsure one says so, or might be it."""
    return _any_sure([(fits(thing, what), thing.confidence) for thing in _things(reading)])


def both_bound(reading: ImageReading | VideoReading, first: Description, second: Description) -> bool | None:
    """Whether two different objects are there, each with its own attributes: "a red cube and a blue cone" is not met
    by a blue cube and a red cone."""
    things = _things(reading)
    return _any_sure([
        (i != j and fits(a, first) and fits(b, second), min(a.confidence, b.confidence))
        for i, a in enumerate(things) for j, b in enumerate(things) if i != j
    ] or [(False, 1.0)])


def attributes_held(reading: VideoReading, what: Description, *, share: float = 1.0) -> bool | None:
    """Whether one object keeps the described shape and color in at least `share` of all frames of the clip.

    The size is not asked for frame by frame. None where the clip has such a track and it is not sure.
    """
    looks = Description(shape=what.shape, color=what.color)
    verdicts = []
    for track in reading.tracks:
        kept = sum(o is not None and fits(o, looks) for o in track.frames)
        verdicts.append((fits(track, what) and kept >= share * len(track.frames), track.confidence))
    return _any_sure(verdicts)


def does(reading: VideoReading, what: Description, motion: MotionKind) -> bool | None:
    """Whether such an object makes the motion."""
    return _any_sure([
        (fits(track, what) and any(m.motion.kind == motion for m in track.motions), track.confidence)
        for track in reading.tracks
    ])


def judge(reading: ImageReading | VideoReading, statements: Sequence[Statement]) -> list[bool | None]:
    """Each statement of a caption held against the reading: places, relations, counts, motions and their order.

    A statement is None where the facts are too close to call, or where an object that it hangs on is unsure.
    """
    things = _things(reading)
    visible = [thing.confidence >= LEAST for thing in things]
    return [holds(statement, reading.scene, visible) for statement in statements]


def matches(reading: ImageReading | VideoReading, scene: Scene) -> float:
    """The share of a scene's objects that the reading holds with shape, color and size, each used once, counted
    against the larger of the two numbers of objects: 1 when all are there and nothing else is."""
    left = list(_things(reading))
    hits = 0
    for thing in scene.objects:
        what = Description(thing.shape, thing.color, thing.size)
        found = next((o for o in left if fits(o, what)), None)
        if found is not None:
            left.remove(found)
            hits += 1
    return hits / max(len(scene.objects), reading.count, 1)


def _things(reading: ImageReading | VideoReading) -> Sequence[ReadObject | Track]:
    return reading.objects if isinstance(reading, ImageReading) else reading.tracks


def _any_sure(verdicts: Sequence[tuple[bool, float]]) -> bool | None:
    """True where a sure object fits; None where an unsure one does; else False."""
    if any(fitting and confidence >= LEAST for fitting, confidence in verdicts):
        return True
    return None if any(fitting for fitting, _ in verdicts) else False


