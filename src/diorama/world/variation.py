"""Minimal pairs: the same scene with one fact changed, so that a model must look at exactly that fact."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Literal

from diorama.world.sampling import Split, can_do, is_clear, split_of
from diorama.world.scene import COLORS, SHAPES, SIZES, SPEED, Motion, MotionKind, Scene, SceneObject

Change = Literal["shape", "color", "size", "place", "swap", "reverse", "mover", "order", "motion"]
STILL_CHANGES: tuple[Change, ...] = ("shape", "color", "size", "place", "swap")
MOVING_CHANGES: tuple[Change, ...] = ("shape", "color", "reverse", "mover", "order", "motion")
OPPOSITE: dict[MotionKind, MotionKind] = {
    "left": "right", "right": "left", "towards": "away", "away": "towards", "up": "down", "down": "up",
    "grow": "shrink", "shrink": "grow", "appear": "vanish", "vanish": "appear",
}


def vary(scene: Scene, change: Change, rng: Random) -> Scene | None:
    """The scene with one fact changed, or None where that change cannot be made or leaves the view."""
    things = list(scene.objects)
    index = rng.randrange(len(things))
    thing = things[index]
    movers = [i for i, o in enumerate(things) if o.motions]
    if change == "shape":
        things[index] = replace(thing, shape=rng.choice([s for s in SHAPES if s != thing.shape]))
    elif change == "color":
        things[index] = replace(thing, color=rng.choice([c for c in COLORS if c != thing.color]))
    elif change == "size":
        things[index] = replace(thing, size=SIZES[1 - SIZES.index(thing.size)])
    elif change == "place":
        shift = [round(a + rng.uniform(-1.5, 1.5), 3) for a in thing.position[:2]]
        things[index] = replace(thing, position=(shift[0], shift[1], thing.position[2]))
    elif change == "swap" and len(things) > 1:
        a, b = rng.sample(range(len(things)), 2)
        things[a], things[b] = (
            replace(things[a], position=things[b].position), replace(things[b], position=things[a].position)
        )
    elif change == "reverse" and movers:
        i = rng.choice(movers)
        things[i] = replace(things[i], motions=tuple(_reversed(m) for m in things[i].motions))
        if things[i].motions[0].kind in ("up", "down"):
            things[i] = replace(things[i], position=_start_height(scene, i, things[i].motions[0].kind))
    elif change == "mover" and movers and len(movers) < len(things):
        i, j = rng.choice(movers), rng.choice([k for k in range(len(things)) if k not in movers])
        things[i], things[j] = replace(things[i], motions=()), replace(things[j], motions=things[i].motions)
    elif change == "order" and len(movers) > 1:
        a, b = rng.sample(movers, 2)
        starts = things[a].motions[0].start, things[b].motions[0].start
        things[a], things[b] = _retimed(things[a], starts[1]), _retimed(things[b], starts[0])
    elif change == "motion" and movers:
        i = rng.choice(movers)
        first, *rest = things[i].motions
        kinds: list[MotionKind] = ["left", "right", "towards", "away", "grow", "shrink", "spin"]
        other = rng.choice([k for k in kinds if k != first.kind])
        if first.kind in ("appear", "vanish", "up", "down"):
            return None
        things[i] = replace(things[i], motions=(replace(first, kind=other), *rest))
    else:
        return None
    return replace(scene, objects=tuple(things))


def mirrored(scene: Scene) -> Scene:
    """The scene as a mirror shows it: its picture is the picture of `scene` flipped from left to right.

    Only the sense of a spin is lost, which no caption and no question names.
    """
    (rx, ry), turn = scene.camera.right, 2 * scene.camera.azimuth
    swapped: dict[MotionKind, MotionKind] = {"left": "right", "right": "left"}
    things = []
    for thing in scene.objects:
        x, y, z = thing.position
        aside = 2 * (x * rx + y * ry)
        motions = tuple(replace(m, kind=swapped.get(m.kind, m.kind)) for m in thing.motions)
        things.append(replace(thing, position=(x - aside * rx, y - aside * ry, z), yaw=(turn - thing.yaw) % 360,
                              motions=motions))
    light = replace(scene.light, azimuth=(180 - scene.light.azimuth) % 360)
    return replace(scene, objects=tuple(things), light=light)


def family(scene: Scene, size: int, split: Split, rng: Random) -> list[Scene]:
    """The scene followed by up to `size` - 1 variations of it that belong to the same split."""
    changes = list(MOVING_CHANGES if scene.duration else STILL_CHANGES)
    members, seen = [scene], {scene.digest()}
    for _ in range(12 * size):
        if len(members) == size:
            break
        changed = vary(scene, rng.choice(changes), rng)
        if changed is None or changed.digest() in seen or not _sound(changed) or split_of(changed) != split:
            continue
        seen.add(changed.digest())
        members.append(changed)
    return members


def _sound(scene: Scene) -> bool:
    """Whether the scene could have been sampled: everything in view, nothing touching, every motion visible."""
    for thing in scene.objects:
        if any(not can_do(thing.shape, m.kind) or m.end > scene.duration for m in thing.motions):
            return False
        if thing.on is not None:
            base = scene.objects[thing.on]
            if base.shape not in ("cube", "cylinder") or base.size == "small" or thing.size == "large":
                return False
            if base.position[:2] != thing.position[:2] or thing.position[2] == 0:
                return False
    return is_clear(scene)


def _reversed(motion: Motion) -> Motion:
    return replace(motion, kind=OPPOSITE.get(motion.kind, motion.kind))


def _start_height(scene: Scene, index: int, kind: MotionKind) -> tuple[float, float, float]:
    """Where an object must stand at first to rise from the ground, or to come down to it."""
    thing = scene.objects[index]
    motion = thing.motions[0]
    path = round(SPEED[motion.pace] * (motion.end - motion.start), 3)
    return (*thing.position[:2], path if kind == "down" else 0.0)


def _retimed(thing: SceneObject, start: float) -> SceneObject:
    """The object beginning its first motion at `start` seconds."""
    first, *rest = thing.motions
    end = round(start + first.end - first.start, 2)
    return replace(thing, motions=(replace(first, start=start, end=end), *rest))
