"""The world as values: scenes of one to five objects on a plane, seen by one camera, moving over a few seconds.

Units are metres, seconds and degrees. The ground is the plane z = 0, z points up, and the camera looks at the
middle of the ground. "Left", "right", "towards" and "away" are always the viewer's. Everything here is plain
data without torch, so that captions, questions and splits can be made without rendering.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

Shape = Literal["sphere", "cube", "cylinder", "cone", "torus", "pyramid"]
Color = Literal["red", "green", "blue", "yellow", "purple", "orange", "cyan", "grey"]
Size = Literal["small", "large"]
MotionKind = Literal[
    "left", "right", "towards", "away", "up", "down", "spin", "grow", "shrink", "appear", "vanish"
]
Pace = Literal["slowly", "quickly"]

SHAPES: tuple[Shape, ...] = get_args(Shape)
COLORS: tuple[Color, ...] = get_args(Color)
SIZES: tuple[Size, ...] = get_args(Size)
MOTIONS: tuple[MotionKind, ...] = get_args(MotionKind)
PACES: tuple[Pace, ...] = get_args(Pace)

RADIUS: dict[Size, float] = {"small": 0.45, "large": 0.75}
"""Half the extent of an object in metres; each shape's own proportions are in `PROPORTIONS`."""
SPEED: dict[Pace, float] = {"slowly": 0.6, "quickly": 1.5}
"""Metres a second, for the motions that change position."""
TURN: dict[Pace, float] = {"slowly": 60.0, "quickly": 180.0}
"""Degrees a second, for `spin`."""
RATE: dict[Pace, float] = {"slowly": 1.35, "quickly": 1.8}
"""Factor of size a second, for `grow` (and its inverse for `shrink`)."""
ARENA = 1.9
"""Objects stand, and stay while they move, within this many metres of the middle along each axis of the view."""


@dataclass(frozen=True)
class Proportions:
    """Half-width and height of a shape as multiples of its object's radius."""

    half_width: float
    height: float


PROPORTIONS: dict[Shape, Proportions] = {
    "sphere": Proportions(1.0, 2.0),
    "cube": Proportions(0.8, 1.6),
    "cylinder": Proportions(0.8, 1.7),
    "cone": Proportions(1.0, 2.0),
    "torus": Proportions(1.1, 0.64),
    "pyramid": Proportions(0.95, 1.9),
}
TORUS_TUBE = 0.32
"""Radius of the torus's tube as a multiple of its object's radius; the torus lies flat."""


@dataclass(frozen=True)
class Motion:
    """One thing an object does between two moments. An object that does nothing has no motion."""

    kind: MotionKind
    start: float
    end: float
    pace: Pace = "quickly"


@dataclass(frozen=True)
class SceneObject:
    """One coloured solid. `position` is the middle of its foot at time zero; `on` is the index of what it stands on."""

    shape: Shape
    color: Color
    size: Size
    position: tuple[float, float, float] = (0.0, 0.0, 0.0)
    yaw: float = 0.0
    motions: tuple[Motion, ...] = ()
    on: int | None = None

    @property
    def name(self) -> str:
        return f"{self.size} {self.color} {self.shape}"


@dataclass(frozen=True)
class Camera:
    """Looks at the point (0, 0, 0.4) from a sphere around it; angles in degrees, distance in metres."""

    azimuth: float = 0.0
    elevation: float = 35.0
    distance: float = 8.0
    field_of_view: float = 40.0

    @property
    def right(self) -> tuple[float, float]:
        """The viewer's right along the ground."""
        a = math.radians(self.azimuth)
        return (math.cos(a), math.sin(a))

    @property
    def forward(self) -> tuple[float, float]:
        """Away from the viewer along the ground."""
        a = math.radians(self.azimuth)
        return (-math.sin(a), math.cos(a))


@dataclass(frozen=True)
class Light:
    """A distant lamp; `azimuth` is relative to the viewer's right, `ambient` is the share that has no direction."""

    azimuth: float = 120.0
    elevation: float = 55.0
    ambient: float = 0.45


@dataclass(frozen=True)
class Scene:
    """Everything there is to know about a picture (`duration` 0) or a clip of `duration` seconds."""

    objects: tuple[SceneObject, ...]
    camera: Camera = field(default_factory=Camera)
    light: Light = field(default_factory=Light)
    background: float = 0.75
    duration: float = 0.0
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Scene:
        objects = tuple(
            SceneObject(**{
                **o,
                "position": tuple(o["position"]),
                "motions": tuple(Motion(**m) for m in o.get("motions", ())),
            })
            for o in values["objects"]
        )
        return cls(
            objects=objects,
            camera=Camera(**values["camera"]),
            light=Light(**values["light"]),
            background=values["background"],
            duration=values["duration"],
            seed=values["seed"],
        )

    def digest(self) -> str:
        """SHA-256 over the canonical JSON of the scene without its seed: equal scenes have equal digests."""
        values = self.to_dict()
        del values["seed"]
        return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class ObjectState:
    """Where an object is at one moment: the middle of its foot, its yaw, its scale, and whether it is there at all."""

    position: tuple[float, float, float]
    yaw: float
    scale: float
    present: bool


def state_at(scene: Scene, index: int, time: float) -> ObjectState:
    """The state of object `index` at `time` seconds: every motion contributes the part of it that has passed."""
    thing = scene.objects[index]
    x, y, z = thing.position
    yaw, scale, present = thing.yaw, 1.0, True
    right, forward = scene.camera.right, scene.camera.forward
    for motion in thing.motions:
        passed = min(max(time, motion.start), motion.end) - motion.start
        step = SPEED[motion.pace] * passed
        if motion.kind == "left":
            x, y = x - step * right[0], y - step * right[1]
        elif motion.kind == "right":
            x, y = x + step * right[0], y + step * right[1]
        elif motion.kind == "away":
            x, y = x + step * forward[0], y + step * forward[1]
        elif motion.kind == "towards":
            x, y = x - step * forward[0], y - step * forward[1]
        elif motion.kind == "up":
            z += step
        elif motion.kind == "down":
            z -= step
        elif motion.kind == "spin":
            yaw += TURN[motion.pace] * passed
        elif motion.kind == "grow":
            scale *= RATE[motion.pace] ** passed
        elif motion.kind == "shrink":
            scale /= RATE[motion.pace] ** passed
        elif motion.kind == "appear":
            present = present and time >= motion.start
        elif motion.kind == "vanish":
            present = present and time < motion.start
    return ObjectState((x, y, z), yaw, scale, present)


def view_position(scene: Scene, position: tuple[float, float, float]) -> tuple[float, float, float]:
    """A point in the viewer's axes: (metres to the right, metres away, metres up), from the middle of the ground."""
    (rx, ry), (fx, fy) = scene.camera.right, scene.camera.forward
    x, y, z = position
    return (x * rx + y * ry, x * fx + y * fy, z)
