"""A second look at a picture: what the network is unsure of is rendered and held against the pixels.

Each reading of an unsure object (another shape or size, on top of something or behind it, not there at all) is drawn
into the whole picture, camera, light and all other objects are fitted again, and the nearest picture is believed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from diorama.world.detector import Candidate
from diorama.world.facts import TURNING_SHAPES
from diorama.world.readings import SURE, ImageReading, ReadObject, camera_of, object_of, size_of
from diorama.world.scene import COLORS, PROPORTIONS, RADIUS, SHAPES, SIZES, Size
from diorama.world.stages import Look, Part, Pose, Stage, calibrated, pose_at, staged

FAINT = 0.1
"""Least score of a candidate that is looked at."""
CLEAR = 0.9
"""Score, and confidence in a shape, a color and a size, from which the network is believed without a second look."""
POSSIBLE = 0.04
"""Least chance of a shape or a color that is tried."""
THERE = 15.0
"""Wrong pixels that an unsure object must put right to be believed."""
WITHIN = 0.7
"""Metres, sideways and away, from where it would be seen within which an object can stand on another."""
BEHIND = 1.3
"""Metres that an object which is taken to be on the ground seems further away for each metre that it is higher."""
TELLING = 2.0
"""Misfit, in wholly wrong pixels, by which one reading must be worse than another to be e times less likely."""


def inspected(picture: Tensor, candidates: Sequence[Candidate], *, least: float = SURE, side: int = 64) -> ImageReading:
    """The reading of a picture float (3, 64, 64), of `side` pixels before it was scaled, from its candidates, down to
    the faint ones, after a second look. Candidates with a score of `least` are taken to be there at first."""
    things = [object_of(c) for c in candidates]
    taken = [k for k, o in enumerate(things) if o.score >= least]
    tops = {k: _tops(k, things, taken) for k in taken}
    unsure = [k for k, o in enumerate(things) if tops.get(k) or min(
        o.score, o.shape_confidence, o.color_confidence, o.size_confidence) < CLEAR]
    if not unsure:
        return ImageReading(tuple(things))
    seen = [things[k] for k in taken] or things
    camera = camera_of([(o.position, o.shape, o.radius, o.u, o.v) for o in seen])
    cast: list[Part | None] = [_part(o) if k in taken else None for k, o in enumerate(things)]
    stage = staged(picture.unsqueeze(0), camera, [cast], side=side)
    found: dict[int, ReadObject] = {k: things[k] for k in taken}
    for k in sorted(unsure, key=lambda k: -things[k].score):
        stage, thing = _settled(stage, k, candidates[k], things[k], tops.get(k, []))
        if thing is None:
            found.pop(k, None)
        else:
            found[k] = replace(thing, score=max(thing.score, least))
    return ImageReading(tuple(sorted(found.values(), key=lambda o: -o.score)))


def _part(thing: ReadObject) -> Part:
    """An object as the network reads it, with the radius of its size and on the ground unless it is clearly above."""
    right, away, up = thing.position
    return (Look(thing.shape, thing.color, thing.size),
            Pose(right, away, up if up > 0.5 else 0.0, RADIUS[thing.size], thing.quarter_turn))


def _tops(k: int, things: Sequence[ReadObject], taken: Sequence[int]) -> list[float]:
    """The heights, in metres, of what an object may stand on. What stands on top looks as if it stood behind."""
    right, away, up = things[k].position
    found = []
    for j in taken:
        base = things[j]
        top = PROPORTIONS[base.shape].height * RADIUS["large"]
        behind = away - base.position[1] - BEHIND * (top - up)
        if (j != k and base.shape in ("cube", "cylinder") and abs(right - base.position[0]) < WITHIN
                and abs(behind) < WITHIN):
            found.append(top)
    return found


def _options(stage: Stage, candidate: Candidate, thing: ReadObject, tops: Sequence[float]) -> list[Part]:
    """What an unsure object may be, and where."""
    shapes = [shape for shape, chance in zip(SHAPES, candidate.shapes, strict=True) if chance > POSSIBLE]
    colors = [color for color, chance in zip(COLORS, candidate.colors, strict=True) if chance > POSSIBLE]
    sizes = SIZES if thing.size_confidence < CLEAR else (thing.size,)
    places: list[tuple[Size, float]] = [(size, 0.0 if tops else _part(thing)[1].up) for size in sizes]
    places += [("small", top) for top in sorted(set(tops))]
    found: list[Part] = []
    for shape in shapes:
        for color in colors:
            for size, up in places:
                for turn in (0.0, 45.0) if shape in TURNING_SHAPES and shape != thing.shape else (0.0,):
                    pose = pose_at(stage.setting.camera, shape, (thing.u, thing.v), RADIUS[size], up=up,
                                   yaw=thing.quarter_turn + turn)
                    found.append((Look(shape, color, size), pose))
    return found


def _settled(stage: Stage, k: int, candidate: Candidate, thing: ReadObject,
             tops: Sequence[float]) -> tuple[Stage, ReadObject | None]:
    """The stage under which the picture comes nearest, and what object k is in it; None where it is not there."""
    options: list[Part | None] = [*_options(stage, candidate, thing, tops)]
    if thing.score < CLEAR:
        options.append(None)
    others = stage.cast[0]
    stages = [calibrated(replace(stage, cast=[[*others[:k], part, *others[k + 1 :]]])) for part in options]
    errors = [s.misfits([(0, {})])[0] for s in stages]
    least = min(error for error, part in zip(errors, options, strict=True) if part is not None)
    if options[-1] is None and errors[-1] < least + THERE:
        return stages[-1], None
    best = errors.index(least)
    by_look: dict[Look, float] = {}
    for error, part in zip(errors, options, strict=True):
        if part is not None:
            by_look[part[0]] = min(error, by_look.get(part[0], math.inf))
    chance = 1 / sum(math.exp((least - error) / TELLING) for error in by_look.values())
    part = stages[best].cast[0][k]
    assert part is not None
    look, pose = part
    return stages[best], replace(
        thing, shape=look.shape, color=look.color, size=size_of(pose.radius), radius=pose.radius,
        position=(pose.right, pose.away, max(pose.up, 0.0)), quarter_turn=pose.yaw % 90, shape_confidence=chance,
        color_confidence=chance if len({look.color for look in by_look}) > 1 else thing.color_confidence,
        size_confidence=chance if len({look.size for look in by_look}) > 1 else thing.size_confidence)
