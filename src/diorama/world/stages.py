"""Stages: a picture or clip as objects in poses, rendered again and held against the pixels (analysis by synthesis).

Camera, light and ground are estimated from the pixels and from where the objects are seen; the renderer does the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from diorama.world.facts import TURNING_SHAPES
from diorama.world.fitting import blurred, fitted
from diorama.world.rendering import Window, render
from diorama.world.scene import PROPORTIONS, RADIUS, RATE, Camera, Color, Light, Motion, Scene, SceneObject, Shape, Size

SIDE = 64
WHOLE: Window = (slice(0, SIDE), slice(0, SIDE))
FAR_OFF = 0.25
"""A pixel that differs by more than this (of 1) is wrong, however much it differs."""
LATE = 9.0
"""Seconds after which every motion of a scene made here is over."""
LIFTED = 0.2
"""Metres above the ground from which an object is not taken to stand on it."""
SETTING_STEPS = (0.4, 0.05, 0.01, 6.0, 3.0)
"""Changes of elevation, distance, ground and the light's two angles that can just be seen."""
STEPS = {"u": 0.015, "v": 0.015, "up": 0.04, "radius": 0.03, "yaw": 4.0}
"""The same of what is fitted of an object: where its middle is seen, its height above the ground, its radius and yaw.
These hardly depend on one another, as right and away would; and not on the camera."""


@dataclass(frozen=True)
class Setting:
    """What all frames share: the camera, the lamp, and the brightness of the ground."""

    camera: Camera
    light: Light
    ground: float


@dataclass(frozen=True)
class Look:
    """What an object is."""

    shape: Shape
    color: Color
    size: Size


@dataclass(frozen=True)
class Pose:
    """Where an object is at one moment: its foot in the viewer's axes, its radius in metres and yaw in degrees."""

    right: float
    away: float
    up: float
    radius: float
    yaw: float = 0.0


Part = tuple[Look, Pose]
Spot = tuple[float, float]
"""Where a point is in the picture, from -1 to 1 (right, down)."""


def spot_of(camera: Camera, right: float, away: float, height: float) -> Spot:
    """Where a point of the viewer's axes is seen."""
    tilt, zoom = math.radians(camera.elevation), 1 / math.tan(math.radians(camera.field_of_view / 2))
    depth = camera.distance + away * math.cos(tilt) - (height - 0.4) * math.sin(tilt)
    return right / depth * zoom, -(away * math.sin(tilt) + (height - 0.4) * math.cos(tilt)) / depth * zoom


def pose_at(camera: Camera, shape: Shape, spot: Spot, radius: float, *, up: float = 0.0, yaw: float = 0.0) -> Pose:
    """The pose at a known height of an object whose middle is seen at `spot`."""
    tilt, zoom = math.radians(camera.elevation), 1 / math.tan(math.radians(camera.field_of_view / 2))
    height, rise = up + PROPORTIONS[shape].height * radius / 2 - 0.4, spot[1] / zoom
    away = -(height * math.cos(tilt) + rise * (camera.distance - height * math.sin(tilt))) / (
        math.sin(tilt) + rise * math.cos(tilt))
    depth = camera.distance + away * math.cos(tilt) - height * math.sin(tilt)
    return Pose(spot[0] / zoom * depth, away, up, radius, yaw)


def middle_of(camera: Camera, part: Part) -> Spot:
    """Where the middle of an object is seen."""
    look, pose = part
    return spot_of(camera, pose.right, pose.away, pose.up + PROPORTIONS[look.shape].height * pose.radius / 2)


def window_of(setting: Setting, parts: Iterable[Part]) -> Window:
    """The rows and columns that hold objects and their shadows."""
    columns, rows = [], []
    camera, light = setting.camera, setting.light
    for look, pose in parts:
        height = pose.up + PROPORTIONS[look.shape].height * pose.radius / 2
        throw = height / math.tan(math.radians(light.elevation))
        turn = math.radians(light.azimuth)
        shadow = (pose.right - throw * math.cos(turn), pose.away - throw * math.sin(turn), 0.0)
        reach = 1.25 * pose.radius / (camera.distance * math.tan(math.radians(camera.field_of_view / 2))) + 0.1
        for u, v in (spot_of(camera, pose.right, pose.away, height), spot_of(camera, *shadow)):
            columns += [u - reach, u + reach]
            rows += [v - reach, v + reach]

    def span(ends: list[float]) -> slice:
        first, last = (min(max(round((w + 1) * SIDE / 2), 0), SIDE) for w in (min(ends), max(ends)))
        return slice(min(first, SIDE - 4), max(last, first + 4))

    return span(rows), span(columns)


@dataclass(frozen=True)
class Try:
    """Object `index` of frame `frame` with another look or pose."""

    frame: int
    index: int
    look: Look
    pose: Pose


@dataclass(frozen=True)
class Stage:
    """The frames float (T, 3, 64, 64) of a clip, and what was in each."""

    frames: Tensor
    setting: Setting
    cast: list[list[Part | None]]
    """For each frame one entry an object, None where it is not there."""
    side: int = SIDE
    """Pixels that a side of the frames had before they were scaled."""
    rays: int = 1
    """Rays along each side of a pixel of small frames; see `staged`."""

    def scene(self, frame: int, changed: Mapping[int, Part | None], setting: Setting | None = None) -> Scene:
        """A frame with some of its objects changed or, where None, taken away."""
        parts = [changed.get(k, part) for k, part in enumerate(self.cast[frame])]
        where = setting or self.setting
        return Scene(tuple(_posed(*part) for part in parts if part is not None), where.camera, where.light,
                     where.ground, LATE)

    def shown(self, scenes: Sequence[Scene], window: Window = WHOLE) -> Tensor:
        """What pictures float (N, 3, 64, 64) of scenes have in the window; they are as coarse as the frames were."""
        if self.side >= SIDE:
            return render(scenes, size=SIDE, times=[LATE], window=window).rgb[:, 0].float() / 255
        images = render(scenes, size=self.side, samples=self.rays, times=[LATE]).rgb[:, 0].float() / 255
        return nn.functional.interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True)[..., *window]

    def misfits(self, tries: Sequence[tuple[int, Mapping[int, Part | None]]], window: Window = WHOLE) -> list[float]:
        """For each (frame, changes) the summed difference, in wholly wrong pixels, between that picture and the true
        one within the window."""
        shown = self.shown([self.scene(frame, changed) for frame, changed in tries], window)
        return _misfit(shown, self.frames[[frame for frame, _ in tries]][..., *window]).tolist()

    def fitted(self, tries: Sequence[Try], *, free: Sequence[str],
               window: Window | None = None) -> list[tuple[float, Pose]]:
        """For each try the misfit and the pose nearby whose picture comes nearest, where only the `free` numbers of
        `STEPS` may change, all within one window."""
        window = window or window_of(self.setting, [(t.look, t.pose) for t in tries])
        camera = self.setting.camera
        known = [_numbers(camera, (t.look, t.pose)) for t in tries]

        def parts(numbers: Tensor, rows: list[int]) -> list[Part]:
            looks = [tries[row].look for row in rows]
            rest = [{**known[row], **dict(zip(free, some, strict=True))}
                    for row, some in zip(rows, numbers.tolist(), strict=True)]
            return [(look, _pose(camera, look, values)) for look, values in zip(looks, rest, strict=True)]

        def picture_of(numbers: Tensor, rows: list[int]) -> Tensor:
            return self.shown([self.scene(tries[row].frame, {tries[row].index: part})
                               for row, part in zip(rows, parts(numbers, rows), strict=True)], window)

        start = torch.tensor([[numbers[name] for name in free] for numbers in known], dtype=torch.float64)
        goals = self.frames[[t.frame for t in tries]][..., *window]
        steps = start.new_tensor([STEPS[name] for name in free])
        found = parts(fitted(start, steps, picture_of, goals, rounds=((4, 3), (2, 2))), list(range(len(tries))))
        changes = [(t.frame, {t.index: part}) for t, part in zip(tries, found, strict=True)]
        return [(error, part[1]) for error, part in zip(self.misfits(changes, window), found, strict=True)]


def _numbers(camera: Camera, part: Part) -> dict[str, float]:
    """An object's pose as the numbers that are fitted."""
    u, v = middle_of(camera, part)
    return {"u": u, "v": v, "up": part[1].up, "radius": part[1].radius, "yaw": part[1].yaw}


def _pose(camera: Camera, look: Look, numbers: Mapping[str, float]) -> Pose:
    """The nearest pose to these numbers that can be rendered: hardly under the ground, neither tiny nor huge."""
    radius, up = min(max(numbers["radius"], 0.15), 2.5), max(numbers["up"], -0.3)
    return pose_at(camera, look.shape, (numbers["u"], numbers["v"]), radius, up=up, yaw=numbers["yaw"])


def staged(frames: Tensor, camera: Camera, cast: list[list[Part | None]], *, frame: int = 0, side: int = SIDE) -> Stage:
    """The stage of frames (T, 3, 64, 64) of `side` pixels before they were scaled, with the light and the ground under
    which one frame looks most as it does; camera and poses are the rough ones given. Frames of under 64 pixels are
    taken to have one ray a pixel or four, whichever looks more like them. See `calibrated`."""
    grounds = [0.7 + 0.03 * k for k in range(9)]
    stage = Stage(frames, Setting(camera, Light(), 0.8), cast, side)
    empty = stage.shown([Scene((), camera, Light(), shade, LATE) for shade in grounds])
    gaps = (empty - frames[frame]).abs().mean(1).flatten(1).median(1).values
    settings = [Setting(camera, Light(azimuth=30.0 * k, elevation=e), grounds[int(gaps.argmin())])
                for k in range(12) for e in (50.0, 63.0)]
    errors = _misfit(stage.shown([stage.scene(frame, {}, setting) for setting in settings]), frames[frame])
    stage = replace(stage, setting=settings[int(errors.argmin())])
    if side >= SIDE:
        return stage
    return min((replace(stage, rays=rays) for rays in (1, 2)), key=lambda s: s.misfits([(frame, {})])[0])


def calibrated(stage: Stage, frame: int = 0) -> Stage:
    """The stage with camera, light, ground and, at one frame, places, heights above the ground and yaws fitted."""
    parts = {k: part for k, part in enumerate(stage.cast[frame]) if part is not None}
    camera, light = stage.setting.camera, stage.setting.light
    known = {k: _numbers(camera, part) for k, part in parts.items()}
    slots: list[tuple[int, str]] = []
    for k, (look, pose) in parts.items():
        names = ["u", "v"] + ["up"] * (pose.up > LIFTED) + ["yaw"] * (look.shape in TURNING_SHAPES)
        slots += [(k, name) for name in names]

    def read(row: list[float]) -> tuple[Setting, dict[int, Part | None]]:
        elevation, distance, ground, azimuth, height, *rest = row
        where = replace(camera, elevation=min(max(elevation, 15.0), 70.0), distance=max(distance, 4.0))
        setting = Setting(where, Light(azimuth, min(max(height, 20.0), 88.0), light.ambient), ground)
        numbers = {k: dict(values) for k, values in known.items()}
        for (k, name), value in zip(slots, rest, strict=True):
            numbers[k][name] = value
        return setting, {k: (look, _pose(where, look, numbers[k])) for k, (look, _) in parts.items()}

    def picture_of(values: Tensor, rows: list[int]) -> Tensor:
        found = [read(row) for row in values.tolist()]
        return stage.shown([stage.scene(frame, changed, setting) for setting, changed in found])

    start = torch.tensor([[camera.elevation, camera.distance, stage.setting.ground, light.azimuth, light.elevation,
                           *(known[k][name] for k, name in slots)]], dtype=torch.float64)
    steps = start.new_tensor([*SETTING_STEPS, *(STEPS[name] for _, name in slots)])
    goal = stage.frames[frame : frame + 1]
    setting, changed = read(fitted(start, steps, picture_of, goal, rounds=((6, 4), (3, 3), (1, 2)))[0].tolist())
    cast = [list(line) for line in stage.cast]
    for k, part in changed.items():
        cast[frame][k] = part
    return replace(stage, setting=setting, cast=cast)


def _posed(look: Look, pose: Pose) -> SceneObject:
    """An object of any radius: the scene's own two sizes, grown or shrunk before anybody looks."""
    factor = math.log(pose.radius / RADIUS[look.size])
    seconds = abs(factor) / math.log(RATE["quickly"])
    motions = (Motion("grow" if factor > 0 else "shrink", 0.0, seconds),) if seconds > 1e-3 else ()
    return SceneObject(look.shape, look.color, look.size, (pose.right, pose.away, pose.up), pose.yaw, motions)


def _misfit(shown: Tensor, true: Tensor) -> Tensor:
    """Differences (N,) of pictures (N, 3, h, w), in wholly wrong pixels."""
    gap = (blurred(shown) - blurred(true.expand_as(shown))).abs().amax(1)
    return gap.clamp(max=FAR_OFF).flatten(1).sum(1) / FAR_OFF
