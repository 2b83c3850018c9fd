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
from diorama.world.scene import COLORS, PROPORTIONS, RADIUS, SHAPES, Size
from diorama.world.stages import Look, Part, Pose, Stage, calibrated, pose_at, staged

FAINT = 0.2
"""Least score of a candidate that is looked at."""
CLEAR = 0.9
"""Confidence in a shape, a color and a size from which the network is believed without a second look."""
SOLID = 0.65
"""Score from which an object is believed to be there without a second look."""
POSSIBLE = 0.04
"""Least chance of a shape or a color that is tried."""
THERE = 40.0
"""Wrong pixels that an unsure object must put right to be believed; a small one and its shadow cover about 150."""
WITHIN = 0.7
"""Metres, sideways and away, from where it would be seen within which an object can stand on another."""
OPEN = 0.15
"""Metres from the ground, and from the top of what it may stand on, within which the height of an object is clear."""
BEHIND = 1.3
"""Metres that an object which is taken to be on the ground seems further away for each metre that it is higher."""
TELLING = 8.0
"""Misfit, in wholly wrong pixels, by which one reading must be worse than another to be e times less likely. Edges that
are a tenth of a pixel off make that much."""


def inspected(picture: Tensor, candidates: Sequence[Candidate], *, least: float = SURE, side: int = 64) -> ImageReading:
    """The reading of a picture float (3, 64, 64), of `side` pixels before it was scaled, from its candidates, down to
    the faint ones, after a second look. Candidates with a score of `least` are taken to be there at first."""
    things = [object_of(c) for c in candidates]
    taken = [k for k, o in enumerate(things) if o.score >= least]
    tops = {k: _tops(k, things, taken) for k in taken}
    unsure = [k for k, o in enumerate(things) if tops.get(k) or o.score < SOLID or min(
        o.shape_confidence, o.color_confidence, o.size_confidence) < CLEAR]
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
    """The heights, in metres, of what an object may stand on, where the network leaves it open whether it does. What
    stands on top looks as if it stood behind."""
    right, away, up = things[k].position
    found = []
    for j in taken:
        base = things[j]
        top = PROPORTIONS[base.shape].height * RADIUS["large"]
        behind = away - base.position[1] - BEHIND * (top - up)
        if (j != k and base.shape in ("cube", "cylinder") and abs(right - base.position[0]) < WITHIN
                and abs(behind) < WITHIN and OPEN < up < top - OPEN):
            found.append(top)
    return found


def _options(stage: Stage, candidate: Candidate, thing: ReadObject, tops: Sequence[float]) -> list[tuple[float, Part]]:
    """What an unsure object may be, and where, each with how unlikely the network finds it, in wrong pixels."""
    small = 1 - thing.size_confidence if thing.size == "large" else thing.size_confidence
    sizes: list[tuple[Size, float]] = [("small", small), ("large", 1 - small)]
    places = [(size, chance, 0.0 if tops else _part(thing)[1].up) for size, chance in sizes if chance > POSSIBLE]
    places += [("small", small, top) for top in sorted(set(tops))]
    found = []
    for shape, likely in zip(SHAPES, candidate.shapes, strict=True):
        for color, too in zip(COLORS, candidate.colors, strict=True):
            if min(likely, too) <= POSSIBLE:
                continue
            for size, chance, up in places:
                for turn in (0.0, 45.0) if shape in TURNING_SHAPES and shape != thing.shape else (0.0,):
                    pose = pose_at(stage.setting.camera, shape, (thing.u, thing.v), RADIUS[size], up=up,
                                   yaw=thing.quarter_turn + turn)
                    doubt = -TELLING * math.log(likely * too * max(chance, POSSIBLE))
                    found.append((doubt, (Look(shape, color, size), pose)))
    return found


def _settled(stage: Stage, k: int, candidate: Candidate, thing: ReadObject,
             tops: Sequence[float]) -> tuple[Stage, ReadObject | None]:
    """The stage under which the picture comes nearest, and what object k is in it; None where it is not there."""
    def fitted(part: Part | None) -> tuple[Stage, float]:
        others = stage.cast[0]
        found = calibrated(replace(stage, cast=[[*others[:k], part, *others[k + 1 :]]]))
        return found, found.misfits([(0, {})])[0]

    options = _options(stage, candidate, thing, tops)
    tried = [fitted(part) for _, part in options]
    scores = [doubt + error for (doubt, _), (_, error) in zip(options, tried, strict=True)]
    best = scores.index(min(scores))
    if thing.score < SOLID:
        without, error = fitted(None)
        if error < tried[best][1] + THERE:
            return without, None
    by_look: dict[Look, float] = {}
    for score, (_, (look, _)) in zip(scores, options, strict=True):
        by_look[look] = min(score, by_look.get(look, math.inf))
    chance = 1 / sum(math.exp((scores[best] - score) / TELLING) for score in by_look.values())
    part = tried[best][0].cast[0][k]
    assert part is not None
    look, pose = part
    return tried[best][0], replace(
        thing, shape=look.shape, color=look.color, size=size_of(pose.radius), radius=pose.radius,
        position=(pose.right, pose.away, max(pose.up, 0.0)), quarter_turn=pose.yaw % 90, shape_confidence=chance,
        color_confidence=chance if len({look.color for look in by_look}) > 1 else thing.color_confidence,
        size_confidence=chance if len({look.size for look in by_look}) > 1 else thing.size_confidence)
