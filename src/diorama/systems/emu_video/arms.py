"""What the arms of the claims are trained and judged on: one object on shaded ground at 16 x 16 pixels, in the world's
own renderer, small enough that an image base takes a minute or two and a judge reads color, ground and track exactly.

The diffusion is of pixels: the effect of the terminal SNR is on averages of many redundant values, which an
autoencoder would hide.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from diorama.diffusion.image_data import Pictures
from diorama.systems.emu_video.data import Clips
from diorama.systems.emu_video.interpolation import ENDS, FACTOR, interpolated_length
from diorama.world.rendering import RGB, render
from diorama.world.scene import SPEED, Camera, Color, Motion, MotionKind, Pace, Scene, SceneObject, Shape

SIZE = 16
FPS = 4.0
Ground = Literal["dark", "middle", "light"]
COLORS: tuple[Color, ...] = ("red", "green", "blue", "yellow", "purple", "cyan")
GROUNDS: dict[Ground, float] = {"dark": 0.15, "middle": 0.5, "light": 0.95}
MOTIONS: tuple[MotionKind | None, ...] = ("left", "right", "up", "down", None)
"""None stays still."""
VERBS = {"left": "moves left", "right": "moves right", "up": "rises", "down": "sinks"}
LOOKS: tuple[tuple[Color, Ground], ...] = tuple(itertools.product(COLORS, GROUNDS))
SHAPES: tuple[Shape, ...] = ("cube", "sphere")
WORDS = sorted({"a", "on", "ground", "stays", "still", "slowly", "quickly", *SHAPES, *COLORS, *GROUNDS,
                *itertools.chain(*(verb.split() for verb in VERBS.values()))})
DISTANCE = 6.5
"""Metres to the camera, a little nearer than the world's, so that the object covers some forty pixels."""
HEIGHT = 1.2
"""Metres that an object rises or sinks at most."""
MOVED = 1.0
"""Pixels that the object's middle must go between the ends of a clip to have moved."""
SEEN = 1.5
"""Summed saturation of the pixels from which there is an object."""


@dataclass(frozen=True)
class Subject:
    """What one clip is of."""

    color: Color
    ground: Ground
    motion: MotionKind | None
    pace: Pace
    shape: Shape
    right: float
    away: float

    @property
    def look(self) -> tuple[Color, Ground]:
        return self.color, self.ground

    def caption(self, *, ground: bool = True) -> str:
        """Color, shape, ground (if asked for) and what happens."""
        where = f" on {self.ground} ground" if ground else ""
        does = f"{VERBS[self.motion]} {self.pace}" if self.motion else "stays still"
        return f"a {self.color} {self.shape}{where} {does}"

    def scene(self, seconds: float) -> Scene:
        """The scene, with the motion over all of it, or until the object is as high or as low as it gets."""
        vertical = self.motion in ("up", "down")
        end = min(seconds, HEIGHT / SPEED[self.pace]) if vertical else seconds
        motions = (Motion(self.motion, 0.0, end, self.pace),) if self.motion else ()
        up = HEIGHT if self.motion == "down" else 0.0
        thing = SceneObject(self.shape, self.color, "large", (self.right, self.away, up), motions=motions)
        return Scene((thing,), Camera(distance=DISTANCE), background=GROUNDS[self.ground], duration=seconds)


def subjects(count: int, seed: int, looks: Sequence[tuple[Color, Ground]] = LOOKS) -> list[Subject]:
    """Random subjects of some looks; those that move are placed so that they stay in view."""
    rng = Random(f"arms {seed}")
    found = []
    for _ in range(count):
        color, ground = rng.choice(looks)
        motion = rng.choice(MOTIONS)
        pace: Pace = rng.choice(("slowly", "quickly"))
        lead = {"left": 0.7, "right": -0.7}.get(motion or "", 0.0)
        found.append(Subject(color, ground, motion, pace, rng.choice(SHAPES), round(lead + rng.uniform(-0.6, 0.6), 2),
                             round(rng.uniform(-0.8, 0.8), 2)))
    return found


def draw(some: Sequence[Subject], frames: int = 8, *, between: bool = False) -> Clips:
    """Clips of subjects, two captions each: with the ground and without it."""
    seconds = (frames - 1) / FPS
    times = [k / FPS for k in range(frames)]
    if between:
        times = [(k - ENDS) / (FACTOR * FPS) for k in range(interpolated_length(frames))]
    scenes = [subject.scene(seconds) for subject in some]
    pixels = render(scenes, size=SIZE, samples=2, times=times).rgb.numpy()
    captions = [[subject.caption(), subject.caption(ground=False)] for subject in some]
    return Clips(pixels, captions, FPS * (FACTOR if between else 1))


def pictures(clips: Clips) -> Pictures:
    """The first frames of clips, told as the clips are."""
    return Pictures(np.ascontiguousarray(clips.pixels[:, 0]), clips.captions)


# ---- the judge ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """What is seen in a clip: a color and a ground a frame (None without an object), and the track in pixels."""

    colors: tuple[Color | None, ...]
    grounds: tuple[Ground, ...]
    across: tuple[float, ...]
    down: tuple[float, ...]
    brightness: tuple[float, ...]
    """Mean level of the ground a frame, 0..1."""

    @cached_property
    def motion(self) -> MotionKind | None:
        """Where the object's middle went between the first and the last two frames."""
        dx, dy = (float(np.mean(line[-2:]) - np.mean(line[:2])) for line in (self.across, self.down))
        if not max(abs(dx), abs(dy)) >= MOVED:
            return None
        if abs(dx) >= abs(dy):
            return "right" if dx > 0 else "left"
        return "down" if dy > 0 else "up"

    def shows(self, subject: Subject) -> bool:
        """Whether color and ground are the subject's in most frames."""
        right = [(c, g) == subject.look for c, g in zip(self.colors, self.grounds, strict=True)]
        return 2 * sum(right) > len(right)

    @property
    def flips(self) -> int:
        """How often the color changes from one frame to the next."""
        return sum(a != b for a, b in itertools.pairwise(self.colors))


@dataclass(frozen=True)
class Judge:
    """Reads clips by saturation (objects are colored, the ground is grey) and by the ground's shade."""

    shades: dict[Ground, float]
    hues: dict[Color, np.ndarray]
    """Unit vectors of color without grey."""

    @classmethod
    def calibrated(cls) -> Judge:
        """Shades and hues as the renderer shows them."""
        shades = {ground: float(_ground_level(draw([Subject("red", ground, None, "slowly", "sphere", 0.0, 0.0)], 2)
                                              .pixels[0, :1])[0]) for ground in GROUNDS}
        hues = {color: _hue(np.asarray(RGB[color])) for color in COLORS}
        return cls(shades, hues)

    def read(self, clip: Tensor | np.ndarray) -> Reading:
        """A clip uint8 (T, 3, S, S)."""
        pixels = np.asarray(clip)
        values = pixels.astype(np.float64) / 255
        saturation = values.max(1) - values.min(1)                                     # (T, S, S)
        weights = np.where(saturation > 0.2, saturation, 0.0)
        total = weights.sum((1, 2))
        rows, columns = np.mgrid[: pixels.shape[2], : pixels.shape[3]]
        safe = np.maximum(total, 1e-9)
        mean = (values * weights[:, None]).sum((2, 3)) / safe[:, None]
        levels = _ground_level(pixels)
        return Reading(
            colors=tuple(self._color(color) if mass >= SEEN else None for color, mass in zip(mean, total, strict=True)),
            grounds=tuple(min(self.shades, key=lambda g: abs(self.shades[g] - level)) for level in levels),
            across=tuple((weights * columns).sum((1, 2)) / safe), down=tuple((weights * rows).sum((1, 2)) / safe),
            brightness=tuple(levels))

    def _color(self, mean: np.ndarray) -> Color:
        hue = _hue(mean)
        return max(self.hues, key=lambda color: float(self.hues[color] @ hue))


def _hue(rgb: np.ndarray) -> np.ndarray:
    part = rgb - rgb.mean()
    return part / max(float(np.linalg.norm(part)), 1e-9)


def _ground_level(pixels: np.ndarray) -> np.ndarray:
    """The median level of each frame (T, 3, S, S): most of a frame is ground."""
    return np.median(pixels.astype(np.float64).mean(1) / 255, axis=(1, 2))


def as_tensor(clips: Clips) -> Tensor:
    """The pixels of clips, uint8 (N, T, 3, S, S)."""
    return torch.from_numpy(np.ascontiguousarray(clips.pixels))
