"""What the oracle returns: objects, pictures, tracks and clips as read, each with a confidence.

`ImageReading.scene` and `VideoReading.scene` put a reading into the world's own terms, so that the facts and statements
of the world can be held against it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from diorama.world.detector import Candidate
from diorama.world.facts import PlaceKind, RelationKind, places, related
from diorama.world.scene import (
    COLORS,
    PROPORTIONS,
    RADIUS,
    SHAPES,
    Camera,
    Color,
    Motion,
    Scene,
    SceneObject,
    Shape,
    Size,
)

SURE = 0.5
"""Least score of a candidate that is counted as an object."""
SIZE_BORDER = math.sqrt(RADIUS["small"] * RADIUS["large"])
"""Radius in metres that parts small from large."""
STACKED_WITHIN = 0.45
"""Metres, sideways and in height, within which an object is taken to stand on another."""


@dataclass(frozen=True)
class ReadObject:
    """One object in one picture.

    `position` is the middle of its foot in the viewer's axes (metres right, away, up), `u` and `v` the middle of its
    outline in the picture from -1 to 1 (right, down), `radius` metres, `quarter_turn` degrees in 0..90 (cubes and
    pyramids), `visible` the share of its outline that is not hidden, all as far as the oracle can tell. `confidence`
    is the chance that it is there with this shape and color; the chances of each alone stand beside it.
    """

    shape: Shape
    color: Color
    size: Size
    position: tuple[float, float, float]
    u: float
    v: float
    radius: float
    quarter_turn: float
    visible: float
    score: float
    shape_confidence: float
    color_confidence: float
    size_confidence: float

    @property
    def confidence(self) -> float:
        return self.score * self.shape_confidence * self.color_confidence

    @property
    def name(self) -> str:
        return f"{self.size} {self.color} {self.shape}"


@dataclass(frozen=True)
class ImageReading:
    """What the oracle sees in one picture; the surest object first."""

    objects: tuple[ReadObject, ...]

    @property
    def count(self) -> int:
        return len(self.objects)

    @property
    def confidence(self) -> float:
        """That of the least sure object; 1 for an empty picture."""
        return min((o.confidence for o in self.objects), default=1.0)

    @cached_property
    def scene(self) -> Scene:
        """The reading as a scene, seen by the camera that explains best where the objects are in the picture."""
        camera = camera_of([(o.position, o.shape, o.radius, o.u, o.v) for o in self.objects])
        objects = tuple(SceneObject(o.shape, o.color, o.size, o.position, o.quarter_turn) for o in self.objects)
        return Scene(stacked(objects), camera)

    def relation(self, first: int, relation: RelationKind, second: int) -> bool | None:
        """Whether one object is, for instance, left of another; None where it is too close to call."""
        return related(self.scene, first, second, relation)

    def place(self, index: int) -> dict[PlaceKind, bool | None]:
        """Where in the picture an object is: each place True, False or None for too close to call."""
        return places(self.scene, index)


@dataclass(frozen=True)
class ReadMotion:
    """One thing that an object does, with the margin by which it exceeded what counts as stillness (1 is the edge)."""

    motion: Motion
    margin: float


@dataclass(frozen=True)
class Track:
    """One object through a clip: what it is, where it is in each frame (None where it is not seen), what it does."""

    shape: Shape
    color: Color
    size: Size
    frames: tuple[ReadObject | None, ...]
    motions: tuple[ReadMotion, ...]
    shape_confidence: float
    color_confidence: float
    score: float

    @property
    def confidence(self) -> float:
        return self.score * self.shape_confidence * self.color_confidence

    @property
    def name(self) -> str:
        return f"{self.size} {self.color} {self.shape}"

    @property
    def first(self) -> ReadObject:
        """The object where it is first seen."""
        return next(o for o in self.frames if o is not None)


@dataclass(frozen=True)
class VideoReading:
    """What the oracle sees in a clip; `times` are the seconds of its frames."""

    tracks: tuple[Track, ...]
    frames: tuple[ImageReading, ...]
    times: tuple[float, ...]

    @property
    def count(self) -> int:
        return len(self.tracks)

    @cached_property
    def scene(self) -> Scene:
        """The reading as a moving scene."""
        seen = [(o.position, o.shape, o.radius, o.u, o.v) for f in self.frames for o in f.objects]
        objects = tuple(
            SceneObject(t.shape, t.color, t.size, t.first.position, t.first.quarter_turn,
                        tuple(m.motion for m in t.motions))
            for t in self.tracks
        )
        return Scene(stacked(objects), camera_of(seen), duration=self.times[-1])


def reading_of(candidates: Sequence[Candidate]) -> ImageReading:
    """The candidates of one picture as objects."""
    return ImageReading(tuple(object_of(c) for c in candidates))


def object_of(candidate: Candidate) -> ReadObject:
    """A candidate's likeliest attributes."""
    shape = max(range(len(SHAPES)), key=candidate.shapes.__getitem__)
    color = max(range(len(COLORS)), key=candidate.colors.__getitem__)
    gap = abs(math.log(candidate.radius / SIZE_BORDER))
    return ReadObject(
        shape=SHAPES[shape],
        color=COLORS[color],
        size=size_of(candidate.radius),
        position=candidate.place,
        u=candidate.u,
        v=candidate.v,
        radius=candidate.radius,
        quarter_turn=candidate.quarter_turn,
        visible=candidate.visible,
        score=candidate.score,
        shape_confidence=candidate.shapes[shape],
        color_confidence=candidate.colors[color],
        size_confidence=1 / (1 + math.exp(-18 * gap)),
    )


def size_of(radius: float) -> Size:
    """The size class of a radius in metres."""
    return "small" if radius < SIZE_BORDER else "large"


def camera_of(
    seen: Sequence[tuple[tuple[float, float, float], Shape, float, float, float]]
) -> Camera:
    """The camera (azimuth 0) under which objects at these places have their middles where they were seen: a search
    over elevation and distance. Each row is position, shape, radius, u, v; without rows the default camera."""
    if not seen:
        return Camera()
    right, away, height = (torch.tensor(column) for column in zip(*(
        (p[0], p[1], p[2] + PROPORTIONS[s].height * r / 2 - 0.4) for p, s, r, _, _ in seen
    ), strict=True))
    u, v = (torch.tensor(column) for column in zip(*((row[3], row[4]) for row in seen), strict=True))
    elevations = torch.arange(26.0, 49.0).view(-1, 1, 1)
    distances = torch.arange(7.0, 9.05, 0.1).view(1, -1, 1)
    tilt = elevations * (math.pi / 180)
    depth = distances + away * tilt.cos() - height * tilt.sin()
    zoom = 1 / math.tan(math.radians(Camera().field_of_view / 2))
    error = (right / depth * zoom - u) ** 2 + (-(away * tilt.sin() + height * tilt.cos()) / depth * zoom - v) ** 2
    best = int(error.mean(-1).argmin())
    columns = distances.numel()
    return Camera(elevation=float(elevations.flatten()[best // columns]),
                  distance=round(float(distances.flatten()[best % columns]), 2))


def stacked(objects: tuple[SceneObject, ...]) -> tuple[SceneObject, ...]:
    """The objects, those that stand on another one marked so."""
    found = []
    for i, thing in enumerate(objects):
        below: int | None = None
        for j, base in enumerate(objects):
            top = base.position[2] + PROPORTIONS[base.shape].height * RADIUS[base.size]
            aside = math.dist(thing.position[:2], base.position[:2])
            if (i != j and base.shape in ("cube", "cylinder") and base.size == "large" and thing.size == "small"
                    and not thing.motions and aside < STACKED_WITHIN and abs(thing.position[2] - top) < STACKED_WITHIN):
                below = j
        found.append(SceneObject(thing.shape, thing.color, thing.size, thing.position, thing.yaw, thing.motions, below))
    return tuple(found)


