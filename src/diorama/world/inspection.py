"""A second look at a picture: what the network is unsure of is rendered and held against the pixels.

Unsure shapes are tried one by one, small objects are tried on top of what stands behind or below them, and faint
candidates are kept if the picture is nearer to the true one with them than without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from diorama.world.detector import Candidate
from diorama.world.readings import SURE, ImageReading, ReadObject, camera_of, object_of
from diorama.world.scene import PROPORTIONS, RADIUS, SHAPES
from diorama.world.stages import Look, Stage, around, ground_pose, staged

FAINT = 0.05
"""Least score of a candidate that is looked at again."""
CLEAR = 0.9
"""Confidence in a shape from which the network is believed without trying the others."""
GAIN = 0.25
"""Share of the difference around a faint candidate that it must explain to be believed."""
WITHIN = 0.5
"""Metres from the middle of an object within which another can stand on it, as far as the network can tell."""


def inspected(picture: Tensor, candidates: Sequence[Candidate], least: float = SURE) -> ImageReading:
    """The reading of a picture float (3, 64, 64) from its candidates, down to the faint ones, after a second look.
    Candidates with a score of `least` are believed to be there."""
    things = [object_of(c) for c in candidates]
    believed = [o for o in things if o.score >= least]
    shown = believed or things
    if not shown:
        return ImageReading(())
    faint = [o for o in things if o.score < least]
    rough = camera_of([(o.position, o.shape, o.radius, o.u, o.v) for o in shown])
    stage = staged(picture.unsqueeze(0), rough, [(look_of(o), {0: (o.u, o.v, o.quarter_turn)}) for o in shown])
    for k, thing in enumerate(believed):
        if thing.shape_confidence < CLEAR:
            believed[k] = _reshaped(stage, k, thing)
    for k in range(len(believed)):
        believed[k] = _stacked(stage, k, believed)
    for n, thing in enumerate(faint):
        k = n if shown is things else len(stage.cast[0])
        if k == len(stage.cast[0]):
            stage.cast[0].append(None)
        spot = (thing.u, thing.v)
        without = stage.misfits([(0, {k: None})], around(spot))[0]
        thing = _reshaped(stage, k, thing)
        error = stage.fitted(0, k, spot, look_of(thing), radii=list(RADIUS.values()))[0]
        if error < (1 - GAIN) * without:
            believed.append(replace(thing, score=least))
        else:
            stage.cast[0][k] = None
    return ImageReading(tuple(sorted(believed, key=lambda o: -o.score)))


def look_of(thing: ReadObject) -> Look:
    """The look of an object as read, with the radius of its size."""
    return Look(thing.shape, thing.color, thing.size, RADIUS[thing.size])


def _reshaped(stage: Stage, k: int, thing: ReadObject) -> ReadObject:
    """The object with the shape whose picture comes nearest; the stage shows it from then on."""
    found = []
    for shape in SHAPES:
        look = replace(look_of(thing), shape=shape)
        found.append((*stage.fitted(0, k, (thing.u, thing.v), look, radii=list(RADIUS.values())), look))
    _, pose, look = min(found, key=lambda row: row[0])
    stage.cast[0][k] = (look, pose)
    return replace(thing, shape=look.shape)


def _stacked(stage: Stage, k: int, things: Sequence[ReadObject]) -> ReadObject:
    """The object on top of another one where the picture says so rather than behind it; as far away as that one."""
    thing, look = things[k], look_of(things[k])
    small = replace(look, size="small", radius=RADIUS["small"])
    tops = []
    for j, base in enumerate(things):
        if j == k or base.shape not in ("cube", "cylinder"):
            continue
        top = PROPORTIONS[base.shape].height * RADIUS["large"]
        pose = ground_pose(stage.camera, thing.shape, thing.u, thing.v, small.radius, up=top)
        below = ground_pose(stage.camera, base.shape, base.u, base.v, RADIUS["large"])
        if max(abs(pose.right - below.right), abs(pose.away - below.away)) < WITHIN:
            tops.append((top, base.position[1]))
    if not tops:
        return thing
    spot = (thing.u, thing.v)
    on_ground, pose = stage.fitted(0, k, spot, look, radii=[look.radius])
    choices = [(on_ground, pose, thing)]
    for top, away in tops:
        error, pose = stage.fitted(0, k, spot, small, radii=[small.radius], up=top)
        choices.append((error, pose, replace(thing, position=(pose.right, away, top), size="small",
                                             radius=small.radius)))
    _, pose, thing = min(choices, key=lambda row: row[0])
    stage.cast[0][k] = (look_of(thing), pose)
    return thing
