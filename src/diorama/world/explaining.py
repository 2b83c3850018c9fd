"""Which motion explains a clip: what an object could have done is rendered and held against the pixels.

One outline that climbs in the picture may be of an object that rises or of one that goes away; the size of the outline
and the shadow tell them apart, and both are in the pixels. Each motion that fits the path of the outline is tried, and
the one whose picture comes nearest is believed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from torch import Tensor

from diorama.world.detector import fit
from diorama.world.facts import TURNING_SHAPES
from diorama.world.readings import ReadMotion, Track, camera_of, size_of
from diorama.world.scene import PACES, RADIUS, SHAPES, TURN, Shape
from diorama.world.stages import SHIFTS, SIDE, Look, Pose, Stage, Window, around, ground_pose, lifted_pose, staged
from diorama.world.tracks import Leg, legs_of, named, one_at_a_time, smoothed

STIR = 0.02
"""Mean change of the pixels around an object, of 1, from which it is asked whether it turned, grew or shrank."""
GAIN = 0.1
"""Share of the difference around it that a motion must explain to be believed where the outline stays in its place."""
LASTS = 0.4
"""Seconds that a turn or a change of size takes at least."""
CLEAR = 0.9
"""Confidence in a shape from which the network is believed without trying the others."""
GROWTHS = (-0.7, -0.5, -0.36, -0.28, 0.28, 0.36, 0.5, 0.7)
"""Changes of the log of the radius that are tried; real ones are 0.3 to 0.71."""


def explained(tracks: Sequence[Track], pixels: Tensor, times: Sequence[float]) -> tuple[Track, ...]:
    """The tracks of a clip uint8 (T, 3, S, S) with the motions that explain its pixels best. Appearing and vanishing
    stay as the tracks have them."""
    frames = fit(pixels)
    seen = [(o.position, o.shape, o.radius, o.u, o.v) for t in tracks for o in t.frames if o is not None]
    rough = camera_of(seen)
    looks = [Look(t.shape, t.color, t.size, RADIUS[t.size]) for t in tracks]
    stage = staged(frames, rough, [(look, _path(track)) for look, track in zip(looks, tracks, strict=True)])
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
        window = around(*(self.path[i][:2] for i in frames))
        coordinate, change, poses = choices[self.best([poses for _, _, poses in choices], frames, window)]
        first = poses[frames[0]]
        for i in self.there:
            if i < frames[0] and self.pose(i).up < 0.2:
                self.place(i, replace(self.again(i, first.radius, first.up), yaw=self.pose(i).yaw))
        self.settle(poses, frames[-1], coordinate)
        return replace(leg, coordinate=coordinate, change=change)

    def reshaped(self) -> _Trial:
        """The trial of the shape that looks most like what is seen, where the object is first there."""
        i = self.there[0]
        found = [(self.stage.fitted(i, self.index, self.path[i][:2], replace(self.look, shape=shape),
                                    radii=list(RADIUS.values()))[0], shape) for shape in SHAPES]
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
        spot = self.path[frames[0]][:2]
        _, first = self.stage.fitted(frames[0], self.index, spot, self.look, radii=self.radii(frames[0]),
                                     up=self.pose(frames[0]).up)
        choices: list[tuple[str, float, dict[int, Pose]]] = [("none", 0.0, dict.fromkeys(frames, first))]
        choices += [("size", growth, self.resized(first, growth, frames)) for growth in GROWTHS]
        if self.look.shape in TURNING_SHAPES:
            choices += self.turned(first, frames)
        errors = self.errors([poses for _, _, poses in choices], _spread(frames, 6), around(spot))
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
               window: Window) -> list[float]:
        tries = [(i, {self.index: (self.look, poses[i])}) for poses in choices for i in frames]
        errors = self.stage.misfits(tries, window)
        return [sum(errors[n * len(frames) : (n + 1) * len(frames)]) for n in range(len(choices))]

    def best(self, choices: list[dict[int, Pose]], frames: list[int],
             window: Window) -> int:
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
