"""Stages: a picture or clip as objects in poses, rendered again and held against the pixels (analysis by synthesis).

Camera, light and ground are estimated from the pixels and from where the objects are seen; the renderer does the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from diorama.world.facts import TURNING_SHAPES
from diorama.world.rendering import render
from diorama.world.scene import PROPORTIONS, RADIUS, RATE, Camera, Color, Light, Motion, Scene, SceneObject, Shape, Size

SIDE = 64
FAR_OFF = 0.25
"""A pixel that differs by more than this (of 1) is wrong, however much it differs."""
LATE = 9.0
"""Seconds after which every motion of a scene made here is over."""
SHIFTS = (-0.03, -0.015, 0.0, 0.015, 0.03)
"""Shifts in the picture, whose half-width is 1, by which the network may be off."""
NEARBY = 13
"""Pixels around the middle of an object within which its own changes are looked for."""
Window = tuple[slice, slice]
"""Rows and columns of a picture."""
Spot = tuple[float, float]
"""Where the middle of an outline is in the picture, from -1 to 1 (right, down)."""


@dataclass(frozen=True)
class Look:
    """What an object is, with its radius in metres when nothing changes it."""

    shape: Shape
    color: Color
    size: Size
    radius: float


@dataclass(frozen=True)
class Pose:
    """Where an object is at one moment: its foot in the viewer's axes, its radius in metres and yaw in degrees."""

    right: float
    away: float
    up: float
    radius: float
    yaw: float = 0.0


def ground_pose(camera: Camera, shape: Shape, u: float, v: float, radius: float, *, up: float = 0.0,
                yaw: float = 0.0) -> Pose:
    """The pose at a known height of an object whose middle is seen at (u, v)."""
    tilt, zoom = math.radians(camera.elevation), 1 / math.tan(math.radians(camera.field_of_view / 2))
    height, rise = up + PROPORTIONS[shape].height * radius / 2 - 0.4, v / zoom
    away = -(height * math.cos(tilt) + rise * (camera.distance - height * math.sin(tilt))) / (
        math.sin(tilt) + rise * math.cos(tilt))
    depth = camera.distance + away * math.cos(tilt) - height * math.sin(tilt)
    return Pose(u / zoom * depth, away, up, radius, yaw)


def lifted_pose(camera: Camera, shape: Shape, v: float, foot: Pose) -> Pose:
    """The pose above or below `foot` of an object whose middle is seen at height v in the picture."""
    tilt, zoom = math.radians(camera.elevation), 1 / math.tan(math.radians(camera.field_of_view / 2))
    rise = v / zoom
    height = -(foot.away * math.sin(tilt) + rise * (camera.distance + foot.away * math.cos(tilt))) / (
        math.cos(tilt) - rise * math.sin(tilt))
    return replace(foot, up=height + 0.4 - PROPORTIONS[shape].height * foot.radius / 2)


Part = tuple[Look, Pose]


@dataclass(frozen=True)
class Stage:
    """The frames float (T, 3, 64, 64) of a clip, and what was in each: one list of (look, pose) a frame."""

    frames: Tensor
    camera: Camera
    cast: list[list[Part | None]]
    """For each frame one entry an object, None where it is not there."""

    def scene(self, index: int, changed: Mapping[int, Part | None], light: Light, background: float) -> Scene:
        """Frame `index` with some of its objects changed or, where None, taken away."""
        parts = [changed.get(k, part) for k, part in enumerate(self.cast[index])]
        return Scene(tuple(_posed(*part) for part in parts if part is not None), self.camera, light, background, LATE)

    @cached_property
    def surroundings(self) -> tuple[Light, float]:
        """The light and the brightness of the ground under which the first and the last frame look as they do."""
        grounds = [0.7 + 0.03 * k for k in range(9)]
        empty = [Scene((), self.camera, Light(), shade, LATE) for shade in grounds]
        gaps = (_rendered(empty) - self.frames[:1]).abs().mean(1).flatten(1).median(1).values
        ground = grounds[int(gaps.argmin())]
        lights = [Light(azimuth=30.0 * k, elevation=e) for k in range(12) for e in (50.0, 63.0)]
        errors = [self.error_at_ends(light, ground) for light in lights]
        return lights[errors.index(min(errors))], ground

    def error_at_ends(self, light: Light, ground: float) -> float:
        """The misfit of the first and of the last frame: what rises or falls is on the ground in one of them. The
        frame that fits better counts, and the other a little."""
        ends = [0] if len(self.frames) == 1 else [0, -1]
        errors = _misfit(_rendered([self.scene(i, {}, light, ground) for i in ends]), self.frames[ends])
        return float(errors.min() + errors.sum())

    def misfits(self, tries: Sequence[tuple[int, Mapping[int, Part | None]]], window: Window) -> list[float]:
        """For each (frame, changes) the summed difference, in wholly wrong pixels, between that picture and the true
        one within the window."""
        light, ground = self.surroundings
        shown = _rendered([self.scene(index, changed, light, ground) for index, changed in tries])
        part = (..., *window)
        return _misfit(shown[part], self.frames[[index for index, _ in tries]][part]).tolist()

    def fitted(self, index: int, k: int, spot: Spot, look: Look, *, radii: Sequence[float], up: float = 0.0,
               window: Window | None = None) -> tuple[float, Pose]:
        """The pose of object k, seen at `spot` of a frame, whose picture comes nearest, and its misfit: the radius and
        a coarse yaw, then the place, then a fine yaw."""
        window = window or around(spot)
        turning = look.shape in TURNING_SHAPES

        def best(poses: Sequence[Pose]) -> tuple[float, Pose]:
            errors = self.misfits([(index, {k: (look, pose)}) for pose in poses], window)
            least = min(range(len(errors)), key=errors.__getitem__)
            return errors[least], poses[least]

        yaws = [10.0 * n for n in range(9)] if turning else [0.0]
        _, pose = best([ground_pose(self.camera, look.shape, *spot, radius, up=up, yaw=yaw)
                        for radius in radii for yaw in yaws])
        u, v = spot
        error, pose = best([ground_pose(self.camera, look.shape, u + x, v + y, pose.radius, up=up, yaw=pose.yaw)
                            for x in SHIFTS for y in SHIFTS])
        return best([replace(pose, yaw=pose.yaw + turn) for turn in (-9, -6, -3, 0, 3, 6, 9)]) if turning else (
            error, pose)


def around(*spots: Spot) -> Window:
    """The rows and columns around the middles of outlines."""
    cells = [[min(max(round((w + 1) * SIDE / 2), 0), SIDE - 1) for w in spot] for spot in spots]
    (left, right), (top, bottom) = ((min(line), max(line)) for line in zip(*cells, strict=True))
    return slice(max(top - NEARBY, 0), bottom + NEARBY), slice(max(left - NEARBY, 0), right + NEARBY)


def staged(frames: Tensor, rough: Camera,
           seen: Sequence[tuple[Look, Mapping[int, tuple[float, float, float]]]]) -> Stage:
    """The stage of frames (T, 3, 64, 64) on which everything stands on the ground where it is seen, by the camera near
    a rough one under which its ends look as they do. Each object is its look and, for each frame that holds
    it, the u and v of its middle and its yaw."""
    def under(camera: Camera) -> Stage:
        cast: list[list[Part | None]] = [[None] * len(seen) for _ in frames]
        for k, (look, path) in enumerate(seen):
            for i, (u, v, yaw) in path.items():
                cast[i][k] = (look, ground_pose(camera, look.shape, u, v, look.radius, yaw=yaw))
        return Stage(frames, camera, cast)

    light, ground = under(rough).surroundings
    stages = [under(replace(rough, elevation=rough.elevation + e, distance=rough.distance + d))
              for e in (-6, -4, -2, 0, 2, 4, 6) for d in (-0.5, -0.25, 0.0, 0.25, 0.5)]
    errors = [stage.error_at_ends(light, ground) for stage in stages]
    return stages[errors.index(min(errors))]


def _posed(look: Look, pose: Pose) -> SceneObject:
    """An object of any radius: the scene's own two sizes, grown or shrunk before anybody looks."""
    factor = math.log(pose.radius / RADIUS[look.size])
    seconds = abs(factor) / math.log(RATE["quickly"])
    motions = (Motion("grow" if factor > 0 else "shrink", 0.0, seconds),) if seconds > 1e-3 else ()
    return SceneObject(look.shape, look.color, look.size, (pose.right, pose.away, pose.up), pose.yaw, motions)


def _rendered(scenes: list[Scene]) -> Tensor:
    return render(scenes, size=SIDE, times=[LATE]).rgb[:, 0].float() / 255


def _misfit(shown: Tensor, true: Tensor) -> Tensor:
    """Differences (N,) of pictures (N, 3, 64, 64), in wholly wrong pixels."""
    return (shown - true).abs().amax(1).clamp(max=FAR_OFF).flatten(1).sum(1) / FAR_OFF
