"""Scenes from seeds, and the three splits: train, test, and the novel pairs that training never shows.

`sample_scene(seed)` is a pure function of its arguments on every machine. A scene belongs to a split by what it
holds, never by which seed made it: *novel* if any object has a color-shape pair or a shape-motion pair of
`NOVEL_LOOKS` or `NOVEL_MOTIONS`, else *test* for one digest in ten, else *train*.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable
from dataclasses import replace
from random import Random
from typing import Literal, TypeVar

from diorama.errors import InputError
from diorama.world.scene import (
    ARENA,
    COLORS,
    MOTIONS,
    PACES,
    PROPORTIONS,
    RADIUS,
    SHAPES,
    SIZES,
    SPEED,
    Camera,
    Color,
    Light,
    Motion,
    MotionKind,
    Pace,
    Scene,
    SceneObject,
    Shape,
    state_at,
)

Split = Literal["train", "test", "novel"]
Pair = TypeVar("Pair", bound=tuple[str, str])

SPINNERS: tuple[Shape, ...] = ("cube", "pyramid")
"""The shapes whose spin can be seen; the others look the same from every side."""
SLIDES: tuple[MotionKind, ...] = ("left", "right", "towards", "away")
TRAVEL = (0.75, 2.2)
"""Least and greatest path of one motion in metres: visible in 64 pixels, and inside the arena."""
VERTICAL_TRAVEL = (0.75, 1.4)
ATTEMPTS = 400


def can_do(shape: Shape, kind: MotionKind) -> bool:
    """Whether the motion can be seen on the shape: only solids with corners visibly spin."""
    return kind != "spin" or shape in SPINNERS


def _by_hash(pairs: Iterable[Pair], count: int) -> frozenset[Pair]:
    ranked = sorted(pairs, key=lambda pair: hashlib.sha256(" ".join(pair).encode()).hexdigest())
    return frozenset(ranked[:count])


NOVEL_LOOKS: frozenset[tuple[Color, Shape]] = _by_hash(itertools.product(COLORS, SHAPES), 6)
NOVEL_MOTIONS: frozenset[tuple[Shape, MotionKind]] = _by_hash(
    [(s, m) for s in SHAPES for m in MOTIONS if can_do(s, m) and m != "spin"], 6
)


def split_of(scene: Scene) -> Split:
    """The split that a scene belongs to, read off its contents."""
    for thing in scene.objects:
        if (thing.color, thing.shape) in NOVEL_LOOKS:
            return "novel"
        if any((thing.shape, motion.kind) in NOVEL_MOTIONS for motion in thing.motions):
            return "novel"
    return "test" if int(scene.digest()[:8], 16) % 10 == 0 else "train"


def sample_scene(
    seed: int,
    *,
    split: Split = "train",
    objects: tuple[int, int] = (1, 5),
    moving: bool = False,
    movers: tuple[int, int] = (1, 2),
    stacking: float = 0.15,
) -> Scene:
    """A scene of the split, the same for the same arguments everywhere.

    `objects` bounds how many there are; `moving` makes a clip of 2 to 4 seconds in which `movers` objects do
    something; `stacking` is the chance that a still scene of two or more has one object on another.
    Raises InputError for bounds outside 1..5 and for a seed below zero.
    """
    low, high = objects
    if not 1 <= low <= high <= 5:
        raise InputError(f"objects={objects} is not a range within 1..5: a scene holds one to five objects. "
                         "Pass, for example, objects=(1, 3).")
    if not 0 <= movers[0] <= movers[1]:
        raise InputError(f"movers={movers} is not a range of counts. Pass, for example, movers=(1, 2).")
    if seed < 0:
        raise InputError(f"the seed {seed} is below zero; pass 0 or more.")
    rng = Random(f"diorama scene {seed} {split} {objects} {moving} {movers} {stacking}")
    count = rng.randint(low, high)
    for _ in range(ATTEMPTS):
        scene = _attempt(rng, seed, count, split, moving, movers, stacking)
        if scene is not None and split_of(scene) == split:
            return scene
    raise InputError(f"no {split} scene with {objects[0]}-{objects[1]} objects and {movers[0]}-{movers[1]} movers "
                     f"was found in {ATTEMPTS} attempts from seed {seed}. Ask for fewer movers or objects.")


def _attempt(
    rng: Random, seed: int, count: int, split: Split, moving: bool, movers: tuple[int, int], stacking: float
) -> Scene | None:
    camera = Camera(
        azimuth=round(rng.uniform(0, 360), 1),
        elevation=round(rng.uniform(28, 46), 1),
        distance=round(rng.uniform(7.4, 8.6), 2),
    )
    light = Light(azimuth=round(rng.uniform(0, 360), 1), elevation=round(rng.uniform(45, 70), 1))
    duration = rng.choice((2.0, 3.0, 4.0)) if moving else 0.0
    empty = Scene((), camera, light, round(rng.uniform(0.7, 0.95), 2), duration, seed)
    novel_look = split == "novel" and (not moving or rng.random() < 0.5)
    looks = [_look(rng, novel=novel_look and i == 0) for i in range(count)]
    plans = _plan_motions(rng, looks, duration, rng.randint(*movers) if moving else 0)
    if not moving and split != "novel" and count >= 2 and rng.random() < stacking:
        looks[0] = replace(looks[0], shape=_flat_topped(rng, looks[0].color), size="large")
        looks[1] = replace(looks[1], size="small", on=0)
    return _place(rng, empty, looks, plans)


def _look(rng: Random, *, novel: bool) -> SceneObject:
    if novel:
        color, shape = rng.choice(sorted(NOVEL_LOOKS))
    else:
        color, shape = rng.choice(COLORS), rng.choice(SHAPES)
        while (color, shape) in NOVEL_LOOKS:
            color, shape = rng.choice(COLORS), rng.choice(SHAPES)
    return SceneObject(shape, color, rng.choice(SIZES), yaw=round(rng.uniform(0, 90), 1))


def _plan_motions(
    rng: Random, looks: list[SceneObject], duration: float, movers: int
) -> list[tuple[Motion, ...]]:
    """Which object does what and when: two motions either share the clip or follow each other."""
    plans: list[tuple[Motion, ...]] = [()] * len(looks)
    if movers == 0:
        return plans
    who = rng.sample(range(len(looks)), min(movers, len(looks)))
    if len(who) == 1 and rng.random() < 0.35:
        who = who * 2
    in_turn = len(who) >= 2 and (who[0] == who[1] or rng.random() < 0.7)
    rng.shuffle(who)
    slots = len(who) if in_turn else 1
    for turn, index in enumerate(who):
        slot = turn if in_turn else 0
        window = (duration * slot / slots, duration * (slot + 1) / slots)
        plans[index] = (*plans[index], _motion(rng, looks[index].shape, window))
    return plans


def _motion(rng: Random, shape: Shape, window: tuple[float, float]) -> Motion:
    kinds: list[MotionKind] = [k for k in MOTIONS if can_do(shape, k)]
    spins: list[MotionKind] = ["spin"] * 4 if "spin" in kinds else []
    kind = rng.choice([*kinds, *SLIDES, *spins])
    start, end = window
    if kind in ("appear", "vanish"):
        moment = round(rng.uniform(start + 0.3 * (end - start), start + 0.7 * (end - start)), 2)
        return Motion(kind, moment, moment)
    pace: Pace = rng.choice(PACES)
    length = end - start
    if kind in SLIDES or kind in ("up", "down"):
        shortest, longest = TRAVEL if kind in SLIDES else VERTICAL_TRAVEL
        if SPEED[pace] * length < shortest:
            pace = "quickly"
        length = min(length, rng.uniform(shortest, longest) / SPEED[pace], length)
        length = max(length, min(end - start, shortest / SPEED[pace]))
    elif kind in ("grow", "shrink"):
        length = min(length, 1.2)
    begin = rng.uniform(start, end - length)
    return Motion(kind, round(begin, 2), round(begin + length, 2), pace)


def _place(
    rng: Random, scene: Scene, looks: list[SceneObject], plans: list[tuple[Motion, ...]]
) -> Scene | None:
    """Put the objects down one by one where they neither touch nor hide each other at any time, or give up."""
    for index, (look, motions) in enumerate(zip(looks, plans, strict=True)):
        if look.on is not None:
            base = scene.objects[look.on]
            height = round(PROPORTIONS[base.shape].height * RADIUS[base.size], 4)
            scene = replace(scene, objects=(*scene.objects, replace(look, position=(*base.position[:2], height))))
            if not _in_view(scene, index):
                return None
            continue
        for _ in range(30):
            candidate = replace(look, position=_spot(rng, scene, motions), motions=motions)
            trial = replace(scene, objects=(*scene.objects, candidate))
            if _in_view(trial, index) and all(_apart(trial, index, other) for other in range(index)):
                scene = trial
                break
        else:
            return None
    return scene


def _flat_topped(rng: Random, color: Color) -> Shape:
    """A shape that another can stand on, in a color that keeps the pair out of the novel ones."""
    shapes: list[Shape] = [s for s in ("cube", "cylinder") if (color, s) not in NOVEL_LOOKS]
    return rng.choice(shapes or ["cube"])


def _spot(rng: Random, scene: Scene, motions: tuple[Motion, ...]) -> tuple[float, float, float]:
    u, v = rng.uniform(-ARENA, ARENA), rng.uniform(-ARENA, ARENA)
    (rx, ry), (fx, fy) = scene.camera.right, scene.camera.forward
    fall = sum(SPEED[m.pace] * (m.end - m.start) for m in motions if m.kind == "down")
    rise = sum(SPEED[m.pace] * (m.end - m.start) for m in motions if m.kind == "up")
    z = max(fall - rise, 0.0) if motions and motions[0].kind == "up" else fall
    return (round(u * rx + v * fx, 3), round(u * ry + v * fy, 3), round(z, 3))


def is_clear(scene: Scene) -> bool:
    """Whether every object stays in view and none touches or much hides another, except what stands on what."""
    things = scene.objects
    return all(_in_view(scene, i) for i in range(len(things))) and all(
        _apart(scene, i, j)
        for i in range(len(things))
        for j in range(i)
        if things[i].on != j and things[j].on != i
    )


def _moments(scene: Scene) -> list[float]:
    return [scene.duration * i / 8 for i in range(9)] if scene.duration else [0.0]


def _on_screen(scene: Scene, index: int, time: float) -> tuple[float, float, float]:
    """Middle and radius of the object's outline in view units: the picture's half-width is about 1."""
    thing, state = scene.objects[index], state_at(scene, index, time)
    radius = RADIUS[thing.size] * state.scale
    x, y, z = state.position
    z += PROPORTIONS[thing.shape].height * radius / 2 - 0.4
    camera = scene.camera
    (rx, ry), (fx, fy) = camera.right, camera.forward
    u, v = x * rx + y * ry, x * fx + y * fy
    e = math.radians(camera.elevation)
    depth = camera.distance + v * math.cos(e) - z * math.sin(e)
    zoom = 1 / (depth * math.tan(math.radians(camera.field_of_view / 2)))
    return (u * zoom, (v * math.sin(e) + z * math.cos(e)) * zoom, radius * zoom)


def _in_view(scene: Scene, index: int) -> bool:
    for time in _moments(scene):
        u, v, radius = _on_screen(scene, index, time)
        state = state_at(scene, index, time)
        if max(abs(u), abs(v)) + 1.05 * radius > 1 or state.position[2] < -1e-6:
            return False
    return True


def _apart(scene: Scene, first: int, second: int) -> bool:
    """Whether two objects neither touch on the ground nor hide more than a little of each other, at any time."""
    for time in _moments(scene):
        (ua, va, ra), (ub, vb, rb) = _on_screen(scene, first, time), _on_screen(scene, second, time)
        if math.hypot(ua - ub, va - vb) < 0.8 * (ra + rb):
            return False
        a, b = state_at(scene, first, time), state_at(scene, second, time)
        widths = sum(
            PROPORTIONS[scene.objects[i].shape].half_width * RADIUS[scene.objects[i].size] * s.scale
            for i, s in ((first, a), (second, b))
        )
        if math.dist(a.position[:2], b.position[:2]) < 1.1 * widths:
            return False
    return True
