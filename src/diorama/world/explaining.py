"""What moved how in a clip: the poses of everything that stirs are fitted to the pixels, frame by frame.

One outline that climbs in the picture may be of an object that rises or of one that goes away; the size of the outline
and the shadow tell them apart, and both are in the pixels. What an object does is then read off its fitted poses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from diorama.world.detector import fit
from diorama.world.facts import TURNING_SHAPES
from diorama.world.readings import ReadMotion, ReadObject, Track, camera_of, size_of
from diorama.world.scene import RADIUS, SHAPES, Camera
from diorama.world.stages import Look, Part, Pose, Stage, Try, calibrated, middle_of, pose_at, staged, window_of
from diorama.world.tracks import Leg, legs_of, named, one_at_a_time, smoothed, spacing_of, turns_of

STIR = 0.02
"""Mean change of the pixels around an object, of 1, from which it is asked what it does."""
CLEAR = 0.9
"""Confidence in a shape from which the network is believed without trying the others."""
SEEN = 0.3
"""Least share of an object that must be seen for its pose to be fitted."""
GOOD = 25.0
"""Misfit, in wholly wrong pixels, up to which a pose is believed at once."""
THERE = 15.0
"""Wrong pixels a frame that a doubtful object must put right to be believed."""
ROUNDS = 3
"""How often objects that stir are fitted in turn where they fit badly: each is in the other's picture."""
HEIGHTS = (0.0, 0.35, 0.7, 1.05, 1.4)
"""Heights in metres at which an object whose pose does not fit is tried."""


def explained(tracks: Sequence[Track], pixels: Tensor, times: Sequence[float]) -> tuple[Track, ...]:
    """The tracks of a clip uint8 (T, 3, S, S) with the motions that explain its pixels. Appearing and vanishing stay as
    the tracks have them."""
    if not tracks:
        return ()
    frames = fit(pixels)
    present = [sum(t.frames[i] is not None for t in tracks) for i in range(len(frames))]
    first = present.index(max(present))
    stage = calibrated(
        staged(frames, _camera(tracks), _cast(tracks, first), frame=first, side=pixels.shape[-1]), first)
    for k, track in enumerate(tracks):
        if track.shape_confidence < CLEAR:
            _reshape(stage, k, track)
    stirring = [k for k in range(len(tracks)) if _stirs(stage, k)]
    for k in set(range(len(tracks))) - set(stirring):
        _hold(stage, k, first)
    found: dict[int, dict[int, tuple[float, Pose]]] = {}
    for _ in range(ROUNDS if len(stirring) > 1 else 1):
        for k in stirring:
            if k not in found or any(error > GOOD for error, _ in found[k].values()):
                clear = [i for i, o in enumerate(tracks[k].frames) if o is not None and o.visible > SEEN]
                found[k] = _followed(stage, k, clear)
    poses = {k: {i: pose for i, (_, pose) in fits.items()} for k, fits in found.items()}
    return tuple(_told(track, stage, k, poses.get(k, {}), times) for k, track in enumerate(tracks)
                 if not _is_doubtful(track) or _is_there(stage, k))


def _camera(tracks: Sequence[Track]) -> Camera:
    """The camera under which the network's objects are where they are seen."""
    return camera_of([(o.position, o.shape, o.radius, o.u, o.v) for t in tracks for o in t.frames if o is not None])


def _cast(tracks: Sequence[Track], first: int) -> list[list[Part | None]]:
    """What the network says is where; in frame `first` with the radius of its size, as it is before anything grows."""
    cast: list[list[Part | None]] = [[None] * len(tracks) for _ in tracks[0].frames]
    for k, track in enumerate(tracks):
        there = [i for i, o in enumerate(track.frames) if o is not None]
        seen: list[ReadObject] = [o for o in track.frames if o is not None]
        look = Look(track.shape, track.color, track.size)
        rows = zip(there, *(smoothed([o.position[axis] for o in seen]) for axis in range(3)),
                   smoothed([o.radius for o in seen]), [o.quarter_turn for o in seen], strict=True)
        for i, right, away, up, radius, yaw in rows:
            cast[i][k] = (look, Pose(right, away, max(up, 0.0), RADIUS[look.size] if i == first else radius, yaw))
    return cast


def _around(stage: Stage, k: int) -> list[tuple[int, Part]]:
    return [(i, part) for i, line in enumerate(stage.cast) if (part := line[k]) is not None]


def _stirs(stage: Stage, k: int) -> bool:
    """Whether the pixels around an object change between its first frame and another."""
    rows = _around(stage, k)
    i, part = rows[0]
    u, v = middle_of(stage.setting.camera, part)
    x, y = round((u + 1) * 32), round((v + 1) * 32)
    window = (..., slice(max(y - 8, 0), max(y + 8, 1)), slice(max(x - 8, 0), max(x + 8, 1)))
    return any(float((stage.frames[i][window] - stage.frames[j][window]).abs().amax(0).mean()) > STIR for j, _ in rows)


def _hold(stage: Stage, k: int, first: int) -> None:
    """Give an object that does not stir the pose of one frame in all."""
    rows = _around(stage, k)
    part = stage.cast[first][k] or rows[0][1]
    for i, _ in rows:
        stage.cast[i][k] = part


def _reshape(stage: Stage, k: int, track: Track) -> None:
    """Give an object of unsure shape the one that looks most like what is seen where most of it is seen."""
    rows = _around(stage, k)
    visible = {i: o.visible for i, o in enumerate(track.frames) if o is not None}
    frame, (look, pose) = max(rows, key=lambda row: visible[row[0]])
    shape = best_look(stage, frame, k, [replace(look, shape=shape) for shape in SHAPES], pose)[1].shape
    for i, (look, pose) in rows:
        stage.cast[i][k] = (replace(look, shape=shape), pose)


def best_look(stage: Stage, frame: int, k: int, looks: Sequence[Look], pose: Pose) -> tuple[float, Look, Pose]:
    """The look, with its misfit and pose, that comes nearest to the pixels where an object is in a frame."""
    spot = middle_of(stage.setting.camera, stage.cast[frame][k] or (looks[0], pose))
    tries = []
    for look in looks:
        for yaw in (0.0, 22.5, 45.0, 67.5) if look.shape in TURNING_SHAPES else (0.0,):
            tries.append(Try(frame, k, look, pose_at(stage.setting.camera, look.shape, spot, pose.radius, up=pose.up,
                                                     yaw=yaw)))
    found = stage.fitted(tries, free=("u", "v", "radius", "yaw"))
    error, best = min((error, n) for n, (error, _) in enumerate(found))
    return error, tries[best].look, found[best][1]


def _is_doubtful(track: Track) -> bool:
    return track.score < CLEAR or sum(o is not None for o in track.frames) < len(track.frames) / 2


def _is_there(stage: Stage, k: int) -> bool:
    """Whether the frames of a track look more as they do with the object than without it."""
    rows = _around(stage, k)
    some = rows[:: max(len(rows) // 4, 1)]
    window = window_of(stage.setting, [part for _, part in some])
    errors = [sum(stage.misfits([(i, changed) for i, _ in some], window)) for changed in ({}, {k: None})]
    return (errors[1] - errors[0]) / len(some) > THERE


def _followed(stage: Stage, k: int, frames: list[int]) -> dict[int, tuple[float, Pose]]:
    """Misfits and poses of an object in the frames in which it can be seen; the stage takes the poses over."""
    tries = [Try(i, k, *part) for i, part in _around(stage, k) if i in frames]
    if not tries:
        return {}
    free = ["u", "v", "up", "radius"] + (["yaw"] if tries[0].look.shape in TURNING_SHAPES else [])
    found = stage.fitted(tries, free=free)
    doubtful = [n for n, (error, _) in enumerate(found) if error > GOOD]
    again = [(n, replace(tries[n], pose=pose)) for n in doubtful for pose in _others(stage, tries, found, n)]
    if again:
        for (n, _), other in zip(again, stage.fitted([t for _, t in again], free=free), strict=True):
            found[n] = min(found[n], other, key=lambda row: row[0])
    for t, (_, pose) in zip(tries, found, strict=True):
        stage.cast[t.frame][k] = (t.look, pose)
    return {t.frame: fit for t, fit in zip(tries, found, strict=True)}


def _others(stage: Stage, tries: Sequence[Try], found: Sequence[tuple[float, Pose]], n: int) -> list[Pose]:
    """Other poses to start from: the same spot at the height that looks best, and the nearest frame that fits well."""
    good = sorted((m for m, (error, _) in enumerate(found) if error <= GOOD), key=lambda m: abs(m - n))
    camera, look = stage.setting.camera, tries[n].look
    spot = middle_of(camera, (look, tries[n].pose))
    radius = found[good[0]][1].radius if good else RADIUS[look.size]
    poses = [pose_at(camera, look.shape, spot, radius, up=up, yaw=tries[n].pose.yaw) for up in HEIGHTS]
    window = window_of(stage.setting, [(look, pose) for pose in poses])
    errors = stage.misfits([(tries[n].frame, {tries[n].index: (look, pose)}) for pose in poses], window)
    return [poses[errors.index(min(errors))], *(found[m][1] for m in good[:1])]


def _told(track: Track, stage: Stage, k: int, poses: dict[int, Pose], times: Sequence[float]) -> Track:
    """A track with what was found out about it."""
    edges = [m for m in track.motions if m.motion.kind in ("appear", "vanish")]
    look = _around(stage, k)[0][1][0]
    legs = _legs(list(poses.values()), [times[i] for i in poses], look) if len(poses) > 2 else []
    motions = sorted([*(ReadMotion(named(leg), leg.margin) for leg in legs), *edges], key=lambda m: m.motion.start)
    size = size_of(next(iter(poses.values())).radius) if poses else track.size
    return replace(track, shape=look.shape, size=size, motions=tuple(motions))


def _legs(poses: Sequence[Pose], moments: list[float], look: Look) -> list[Leg]:
    """What an object in these poses does."""
    series = {"right": [p.right for p in poses], "away": [p.away for p in poses], "up": [p.up for p in poses],
              "size": [math.log(p.radius) for p in poses]}
    legs = [leg for name, values in series.items() for leg in legs_of(name, smoothed(values), moments)]
    if look.shape in TURNING_SHAPES:
        legs += turns_of([p.yaw % 90 for p in poses], moments)
    return one_at_a_time(legs, spacing_of(moments))
