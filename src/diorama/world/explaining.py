"""Which motion explains a clip: what an object could have done is rendered and held against the pixels.

One outline that climbs in the picture may be of an object that rises or of one that goes away; the size of the outline
and the shadow tell them apart, and both are in the pixels. Each motion that fits the path of the outline is tried, and
the one whose picture comes nearest is believed (analysis by synthesis). Light and ground are estimated the same way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

from torch import Tensor

from diorama.world.detector import fit
from diorama.world.facts import TURNING_SHAPES
from diorama.world.readings import ReadMotion, Track, camera_of, size_of
from diorama.world.rendering import render
from diorama.world.scene import (
    PACES,
    PROPORTIONS,
    RADIUS,
    RATE,
    SHAPES,
    TURN,
    Camera,
    Color,
    Light,
    Motion,
    Scene,
    SceneObject,
    Shape,
    Size,
)
from diorama.world.tracks import Leg, legs_of, named, one_at_a_time, smoothed

SIDE = 64
FAR_OFF = 0.25
"""A pixel that differs by more than this (of 1) is wrong, however much it differs."""
STIR = 0.02
"""Mean change of the pixels around an object, of 1, from which it is asked whether it turned, grew or shrank."""
GAIN = 0.1
"""Share of the difference around it that a motion must explain to be believed where the outline stays in its place."""
LASTS = 0.4
"""Seconds that a turn or a change of size takes at least."""
CLEAR = 0.9
"""Confidence in a shape from which the network is believed without trying the others."""
SHIFTS = (-0.03, -0.015, 0.0, 0.015, 0.03)
"""Shifts in the picture, whose half-width is 1, by which the network may be off."""
NEARBY = 13
"""Pixels around the middle of an object within which its own changes are looked for."""
GROWTHS = (-0.7, -0.5, -0.36, -0.28, 0.28, 0.36, 0.5, 0.7)
"""Changes of the log of the radius that are tried; real ones are 0.3 to 0.71."""
LATE = 9.0
"""Seconds after which every motion of a scene made here is over."""


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


@dataclass(frozen=True)
class Stage:
    """The frames float (T, 3, 64, 64) of a clip, and what was in each: one list of (look, pose) a frame."""

    frames: Tensor
    camera: Camera
    cast: list[list[tuple[Look, Pose] | None]]
    """For each frame one entry an object, None where it is not there."""

    def scene(self, index: int, changed: dict[int, Pose], light: Light, background: float) -> Scene:
        """Frame `index` with some of its objects in other poses."""
        objects = []
        for k, entry in enumerate(self.cast[index]):
            if entry is not None:
                objects.append(_posed(entry[0], changed.get(k, entry[1])))
        return Scene(tuple(objects), self.camera, light, background, LATE)

    @cached_property
    def surroundings(self) -> tuple[Light, float]:
        """The light and the brightness of the ground under which the first frame looks as it does."""
        grounds = [0.7 + 0.03 * k for k in range(9)]
        empty = [Scene((), self.camera, Light(), shade, LATE) for shade in grounds]
        errors = (_rendered(empty) - self.frames[:1]).abs().mean(1).flatten(1).median(1).values
        ground = grounds[int(errors.argmin())]
        lights = [Light(azimuth=30.0 * k, elevation=e) for k in range(12) for e in (50.0, 63.0)]
        scenes = [self.scene(0, {}, light, ground) for light in lights]
        errors = _misfit(_rendered(scenes), self.frames[:1])
        return lights[int(errors.argmin())], ground

    def misfits(self, tries: Sequence[tuple[int, dict[int, Pose]]], window: tuple[slice, slice]) -> list[float]:
        """For each (frame, poses) the summed difference, in pixels, between that picture and the true one in a window
        of rows and columns."""
        light, ground = self.surroundings
        shown = _rendered([self.scene(index, changed, light, ground) for index, changed in tries])
        part = (..., *window)
        return _misfit(shown[part], self.frames[[index for index, _ in tries]][part]).tolist()


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


def explained(tracks: Sequence[Track], pixels: Tensor, times: Sequence[float]) -> tuple[Track, ...]:
    """The tracks of a clip uint8 (T, 3, S, S) with the motions that explain its pixels best. Appearing and vanishing
    stay as the tracks have them."""
    frames = fit(pixels)
    seen = [(o.position, o.shape, o.radius, o.u, o.v) for t in tracks for o in t.frames if o is not None]
    rough = camera_of(seen)
    looks = [Look(t.shape, t.color, t.size, RADIUS[t.size]) for t in tracks]
    stage = _staged(frames, rough, tracks, looks)
    light, ground = stage.surroundings
    stages = [_staged(frames, replace(rough, elevation=rough.elevation + e, distance=rough.distance + d), tracks, looks)
              for e in (-6, -4, -2, 0, 2, 4, 6) for d in (-0.5, -0.25, 0.0, 0.25, 0.5)]
    errors = _misfit(_rendered([s.scene(0, {}, light, ground) for s in stages]), frames[:1])
    stage = stages[int(errors.argmin())]
    trials = []
    for k, track in enumerate(tracks):
        trial = _Trial(stage, k, looks[k], track, times)
        trials.append(trial if track.shape_confidence >= CLEAR else trial.reshaped())
    found = {t.index: t.motions() for t in sorted(trials, key=lambda t: -len(t.legs))}
    return tuple(_told(track, trials[k], found[k]) for k, track in enumerate(tracks))


def _told(track: Track, trial: _Trial, legs: list[Leg]) -> Track:
    """A track with what was found out about it."""
    edges = [m for m in track.motions if m.motion.kind in ("appear", "vanish")]
    motions = sorted([*(ReadMotion(named(leg), leg.margin) for leg in legs), *edges], key=lambda m: m.motion.start)
    size = track.size if trial.fresh else size_of(trial.pose(trial.there[0]).radius)
    return replace(track, shape=trial.look.shape, size=size, motions=tuple(motions))


def _staged(frames: Tensor, camera: Camera, tracks: Sequence[Track], looks: Sequence[Look]) -> Stage:
    """A clip with everything on the ground where it is seen."""
    cast: list[list[tuple[Look, Pose] | None]] = [[None] * len(tracks) for _ in frames]
    for k, (track, look) in enumerate(zip(tracks, looks, strict=True)):
        for i, (u, v, yaw) in _path(track).items():
            cast[i][k] = (look, ground_pose(camera, track.shape, u, v, look.radius, yaw=yaw))
    return Stage(frames, camera, cast)


def _path(track: Track) -> dict[int, tuple[float, float, float]]:
    """Where the middle of the outline is, and the yaw, in each frame that holds the object: medians of three."""
    there = [i for i, o in enumerate(track.frames) if o is not None]
    seen = [o for o in track.frames if o is not None]
    rows = zip(there, smoothed([o.u for o in seen]), smoothed([o.v for o in seen]), seen, strict=True)
    return {i: (u, v, o.quarter_turn) for i, u, v, o in rows}


class _Trial:
    """One object of a stage, and what it may have done."""

    def __init__(self, stage: Stage, index: int, look: Look, track: Track, times: Sequence[float]):
        self.stage, self.index, self.look, self.track, self.times = stage, index, look, track, times
        self.path = _path(track)
        self.there = list(self.path)
        moments = [times[i] for i in self.there]
        poses = [self.pose(i) for i in self.there]
        self.fresh = True
        """Whether nothing is known yet that would tell the radius at the start."""
        self.legs = one_at_a_time([*legs_of("right", [p.right for p in poses], moments),
                                   *legs_of("away", [p.away for p in poses], moments)])

    def pose(self, i: int) -> Pose:
        entry = self.stage.cast[i][self.index]
        assert entry is not None
        return entry[1]

    def motions(self) -> list[Leg]:
        """What the object does, in order; the stage's poses become those that explain it."""
        found: list[Leg] = []
        rest = 0.0
        for leg in sorted(self.legs, key=lambda g: g.start):
            found += self.in_place(rest, leg.start)
            found.append(self.moved(leg))
            rest, self.fresh = leg.end, False
        return found + self.in_place(rest, self.times[-1])

    def within(self, start: float, end: float) -> list[int]:
        step = self.times[1] - self.times[0]
        return [i for i in self.there if start - step / 2 <= self.times[i] <= end + step / 2]

    def moved(self, leg: Leg) -> Leg:
        """A leg of the outline as the motion that explains it: along the ground, upright, or in size."""
        frames = self.within(leg.start, leg.end)
        if leg.coordinate != "away" or len(frames) < 2:
            return leg
        choices: list[tuple[str, float, dict[int, Pose]]] = []
        rises = leg.change > 0 or self.pose(frames[0]).up > 0.2
        for radius in self.radii(frames[0]):
            slid = {i: self.again(i, radius) for i in frames}
            choices += [("size", growth, self.resized(slid[frames[0]], growth, frames))
                        for growth in GROWTHS if growth * leg.change > 0]
            for x in SHIFTS[::2]:
                for y in SHIFTS[::2]:
                    slid = {i: self.again(i, radius, shift=(x, y)) for i in frames}
                    foot = slid[frames[0 if rises else -1]]
                    lifted = {i: lifted_pose(self.stage.camera, self.look.shape, self.path[i][1] + y, foot)
                              for i in frames}
                    height = lifted[frames[-1]].up - lifted[frames[0]].up
                    choices += [("away", leg.change, slid), ("up", height, lifted)]
        coordinate, change, poses = choices[self.best([poses for _, _, poses in choices], frames, self.window(*frames))]
        first = poses[frames[0]]
        for i in self.there:
            if i < frames[0] and self.pose(i).up < 0.2:
                self.place(i, replace(self.again(i, first.radius, first.up), yaw=self.pose(i).yaw))
        self.settle(poses, frames[-1], coordinate)
        return replace(leg, coordinate=coordinate, change=change)

    def reshaped(self) -> _Trial:
        """The trial of the shape that looks most like what is seen, where the object is first there."""
        i = self.there[0]
        found = []
        for shape in SHAPES:
            trial = self.of_shape(shape)
            pose = trial.fitted(i)
            found.append((trial.errors([{i: pose}], [i], trial.window(i))[0], shape))
        return self.of_shape(min(found)[1])

    def of_shape(self, shape: Shape) -> _Trial:
        """The trial of the same track as an object of some shape; the stage shows that one from now on."""
        look = replace(self.look, shape=shape)
        for i, (u, v, yaw) in self.path.items():
            pose = ground_pose(self.stage.camera, shape, u, v, look.radius, yaw=yaw)
            self.stage.cast[i][self.index] = (look, pose)
        return _Trial(self.stage, self.index, look, self.track, self.times)

    def radii(self, i: int) -> list[float]:
        """The radii, in metres, that the object may have in a frame: those of the sizes until something is known."""
        return list(RADIUS.values()) if i == self.there[0] or self.fresh else [self.pose(i).radius]

    def again(self, i: int, radius: float, up: float | None = None,
              shift: tuple[float, float] = (0.0, 0.0)) -> Pose:
        """The pose in a frame of an object of another radius, or at another height, that is seen in the same place."""
        was = self.pose(i)
        u, v, _ = self.path[i]
        return ground_pose(self.stage.camera, self.look.shape, u + shift[0], v + shift[1], radius,
                           up=was.up if up is None else up, yaw=was.yaw)

    def in_place(self, start: float, end: float) -> list[Leg]:
        """What the object does while its outline stays in its place: nothing, or it turns, grows or shrinks."""
        frames = self.within(start, end)
        if len(frames) < 3 or max(self.step(frames[0], i) for i in frames) < STIR:
            return []
        found = []
        for run in _runs([self.step(a, b) > STIR / 3 for a, b in pairwise(frames)]):
            active = frames[run[0] : run[1] + 1]
            if self.times[active[-1]] - self.times[active[0]] >= LASTS:
                found += self.changed(active)
        return found

    def changed(self, frames: list[int]) -> list[Leg]:
        """The turn or change of size, if any, that explains why the pixels around a standing object change."""
        near, first = self.window(frames[0]), self.fitted(frames[0])
        choices: list[tuple[str, float, dict[int, Pose]]] = [("none", 0.0, dict.fromkeys(frames, first))]
        choices += [("size", growth, self.resized(first, growth, frames)) for growth in GROWTHS]
        if self.look.shape in TURNING_SHAPES:
            choices += self.turned(first, frames)
        errors = self.errors([poses for _, _, poses in choices], _spread(frames, 6), near)
        best = min(range(len(errors)), key=errors.__getitem__)
        coordinate, change, poses = choices[best]
        if coordinate == "none" or errors[best] > errors[0] * (1 - GAIN) - 2.0:
            return []
        if self.fresh:
            for i in self.there[: self.there.index(frames[0])]:
                self.place(i, self.again(i, first.radius))
        self.fresh = False
        self.settle(poses, frames[-1], coordinate)
        return [Leg(coordinate, change, self.times[frames[0]], self.times[frames[-1]])]

    def turned(self, first: Pose, frames: list[int]) -> list[tuple[str, float, dict[int, Pose]]]:
        """Turns at both paces that begin and end somewhere between two frames."""
        step = self.times[1] - self.times[0]
        found = []
        for pace in PACES:
            for late in (0.0, 0.25, 0.5, 0.75):
                for early in (0.0, 0.25, 0.5, 0.75):
                    start, end = self.times[frames[0]] + late * step, self.times[frames[-1]] - early * step
                    yaws = {i: TURN[pace] * min(max(self.times[i] - start, 0.0), end - start) for i in frames}
                    found.append(("yaw", TURN[pace] * (end - start),
                                  {i: replace(first, yaw=first.yaw + yaw) for i, yaw in yaws.items()}))
        return found

    def fitted(self, i: int) -> Pose:
        """The pose in a frame, near the one that is known, whose picture comes nearest."""
        near = self.window(i)
        yaws = [10.0 * n for n in range(9)] if self.look.shape in TURNING_SHAPES else [0.0]
        poses = [replace(self.again(i, radius), yaw=yaw) for radius in self.radii(i) for yaw in yaws]
        pose = poses[self.best([{i: p} for p in poses], [i], near)]
        poses = [replace(self.again(i, pose.radius, shift=(x, y)), yaw=pose.yaw) for x in SHIFTS for y in SHIFTS]
        pose = poses[self.best([{i: p} for p in poses], [i], near)]
        if len(yaws) > 1:
            poses = [replace(pose, yaw=pose.yaw + turn) for turn in (-9, -6, -3, 0, 3, 6, 9)]
            pose = poses[self.best([{i: p} for p in poses], [i], near)]
        return pose

    def window(self, *frames: int) -> tuple[slice, slice]:
        """The rows and columns around the object in some frames."""
        spots = [[min(max(round((w + 1) * SIDE / 2), 0), SIDE - 1) for w in self.path[i][:2]] for i in frames]
        (left, right), (top, bottom) = ((min(line), max(line)) for line in zip(*spots, strict=True))
        return (slice(max(top - NEARBY, 0), bottom + NEARBY), slice(max(left - NEARBY, 0), right + NEARBY))

    def step(self, i: int, j: int) -> float:
        """Mean change of the pixels around the object between two frames."""
        u, v, _ = self.path[i]
        x, y = round((u + 1) * SIDE / 2), round((v + 1) * SIDE / 2)
        around = (..., slice(max(y - 8, 0), y + 8), slice(max(x - 8, 0), x + 8))
        return float((self.stage.frames[i][around] - self.stage.frames[j][around]).abs().amax(0).mean())

    def resized(self, first: Pose, growth: float, frames: list[int]) -> dict[int, Pose]:
        """Poses that grow from the first frame to the last by a change of the log of the radius."""
        return {i: replace(first, radius=first.radius * math.exp(growth * n / max(len(frames) - 1, 1)))
                for n, i in enumerate(frames)}

    def errors(self, choices: list[dict[int, Pose]], frames: list[int],
               window: tuple[slice, slice]) -> list[float]:
        tries = [(i, {self.index: poses[i]}) for poses in choices for i in frames]
        errors = self.stage.misfits(tries, window)
        return [sum(errors[n * len(frames) : (n + 1) * len(frames)]) for n in range(len(choices))]

    def best(self, choices: list[dict[int, Pose]], frames: list[int],
             window: tuple[slice, slice]) -> int:
        errors = self.errors(choices, _spread(frames, 4), window)
        return min(range(len(errors)), key=errors.__getitem__)

    def settle(self, poses: dict[int, Pose], last: int, coordinate: str) -> None:
        """Take the poses over, and what they leave behind for the frames after: height, radius, yaw."""
        for i, pose in poses.items():
            self.place(i, pose)
        left = poses[max(poses)]
        for i in self.there:
            if i > last:
                u, v, _ = self.path[i]
                self.place(i, ground_pose(self.stage.camera, self.look.shape, u, v, left.radius, up=left.up,
                                          yaw=left.yaw if coordinate == "yaw" else self.pose(i).yaw))

    def place(self, i: int, pose: Pose) -> None:
        self.stage.cast[i][self.index] = (self.look, pose)


def _runs(flags: Sequence[bool]) -> list[tuple[int, int]]:
    """The first step and the one after the last of each run of steps that are true; a single gap does not end one."""
    runs: list[tuple[int, int]] = []
    for n, flag in enumerate(flags):
        if flag and runs and n - runs[-1][1] <= 1:
            runs[-1] = (runs[-1][0], n + 1)
        elif flag:
            runs.append((n, n + 1))
    return runs


def _spread(frames: list[int], most: int) -> list[int]:
    """Up to so many of the frames, from the first to the last."""
    count = min(most, len(frames))
    return [frames[round(n * (len(frames) - 1) / max(count - 1, 1))] for n in range(count)]
