"""How well the oracle reads true renders: every attribute against the truth, with Wilson intervals.

An object that is not found is wrong in every attribute. Objects of which less than `VISIBLE_SHARE` is seen are left
out and counted; a scene that has one is left out of the count of objects and counted too.
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from diorama.checkpoints import CARD, write_text
from diorama.errors import InputError
from diorama.metrics import Interval, proportion
from diorama.world.detector import SIDE, Detector
from diorama.world.detector_training import truth_of
from diorama.world.facts import (
    PLACES,
    Event,
    RelationKind,
    always_there,
    changes_size,
    events_of,
    places,
    precedes,
    related,
)
from diorama.world.oracle import read_images, read_video
from diorama.world.pool import VISIBLE_SHARE, seen_objects
from diorama.world.readings import ImageReading, ReadObject, Track, VideoReading
from diorama.world.rendering import Rendering, frame_times, render
from diorama.world.sampling import Split, sample_scene
from diorama.world.scene import Scene, state_at

GOAL = 0.99
HEADING = "## Measured"
MEASURED = "measured.json"
SAME_SPOT = 0.16
"""Distance in the picture, whose half-width is 1, within which a reading can be of a true object."""
NEAR = 0.4
"""Metres along each of the viewer's axes within which a position is right."""
ASKED: tuple[RelationKind, ...] = ("left of", "right of", "in front of", "behind", "on top of")


@dataclass
class Tally:
    """Right and asked a name, and what was left out."""

    right: dict[str, int] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, is_right: bool) -> None:
        self.right[name] = self.right.get(name, 0) + bool(is_right)
        self.asked[name] = self.asked.get(name, 0) + 1

    def skip(self, name: str, count: int = 1) -> None:
        self.left_out[name] = self.left_out.get(name, 0) + count


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What is read: `n` pictures and `clips` clips of sampled scenes of a split, the seeds from `seed` on, rendered at
    `size` pixels with `samples` x `samples` rays each. At 64 pixels and more the goal is asked for."""

    n: int = 1000
    clips: int = 200
    size: int = 64
    samples: int = 1
    split: Split = "test"
    frames: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n < 0 or self.clips < 0 or self.n + self.clips < 1:
            raise InputError(f"n={self.n} pictures and clips={self.clips} leave nothing to measure. "
                             "Pass at least 1 of one kind.")
        if self.clips and self.frames < 4:
            raise InputError(f"frames={self.frames} show no motion; pass 4 or more.")

    def title(self) -> str:
        """For example: test, 64 x 64 pixels of one ray."""
        rays = "one ray" if self.samples == 1 else f"{self.samples**2} rays"
        return f"{self.split}, {self.size} x {self.size} pixels of {rays}"


@dataclass(frozen=True)
class Measurement:
    """The share that is right, an attribute each, what was left out, and the seconds of one core that reading took."""

    conditions: Conditions
    attributes: dict[str, Interval]
    left_out: dict[str, int]
    picture_seconds: float
    clip_seconds: float

    @property
    def goal(self) -> float | None:
        """The share that every attribute should reach; None for pictures so small that none is set."""
        return GOAL if self.conditions.size >= SIDE else None

    @property
    def misses(self) -> list[str]:
        """The attributes below the goal."""
        return [name for name, value in self.attributes.items() if self.goal is not None and value.mean < self.goal]

    @property
    def speeds(self) -> dict[str, float]:
        """Pictures and clips that one core reads in a second."""
        timed = [("pictures", self.conditions.n, self.picture_seconds),
                 ("clips", self.conditions.clips, self.clip_seconds)]
        return {name: count / seconds for name, count, seconds in timed if count}

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self.conditions), "goal": self.goal, "misses": self.misses, "left_out": self.left_out,
                "readings_per_second": self.speeds,
                "attributes": {name: asdict(value) for name, value in self.attributes.items()}}

    def table(self) -> str:
        counts = {"pictures": f"{self.conditions.n} pictures",
                  "clips": f"{self.conditions.clips} clips of {self.conditions.frames} frames"}
        read = ", ".join(f"{counts[name]} ({speed:.3g} a second)" for name, speed in self.speeds.items())
        lines = [f"{self.conditions.title()}: {read} of one core",
                 f"{'attribute':22} {'right':>8}  {'95 % interval':>18}  {'asked':>7}"]
        for name, value in self.attributes.items():
            interval = f"{value.low:.2%} - {value.high:.2%}"
            mark = f"  below {GOAL:.0%}" if name in self.misses else ""
            lines.append(f"{name:22} {value.mean:8.2%}  {interval:>18}  {value.n:7}{mark}")
        lines += [f"left out: {count} {name}" for name, count in sorted(self.left_out.items())]
        return "\n".join(lines)


def measure(
    conditions: Conditions, detector: Detector, *, progress: Callable[[int], None] | None = None
) -> Measurement:
    """Read what the conditions say and compare; `progress` hears of the scenes that are done."""
    tally, seconds = Tally(), {"pictures": 0.0, "clips": 0.0}
    size, samples, split, frames = conditions.size, conditions.samples, conditions.split, conditions.frames
    for start in range(0, conditions.n, 64):
        seeds = range(conditions.seed + start, conditions.seed + min(start + 64, conditions.n))
        scenes = [sample_scene(s, split=split) for s in seeds]
        shown = render(scenes, size=size, samples=samples)
        began = time.process_time()
        readings = read_images(shown.rgb[:, 0], detector=detector)
        seconds["pictures"] += time.process_time() - began
        for k, reading in enumerate(readings):
            compare_image(reading, scenes[k], shown.visible[k, 0].tolist(), tally)
        if progress:
            progress(min(start + 64, conditions.n))
    for number in range(conditions.clips):
        scene = sample_scene(conditions.seed + number, split=split, moving=True)
        shown = render([scene], size=size, samples=samples, frames=frames)
        began = time.process_time()
        watched = read_video(shown.rgb[0], times=frame_times(scene, frames), detector=detector)
        seconds["clips"] += time.process_time() - began
        compare_video(watched, scene, shown, tally)
        if progress:
            progress(conditions.n + number + 1)
    values = {name: proportion(tally.right[name], asked) for name, asked in tally.asked.items()}
    return Measurement(conditions, values, tally.left_out, seconds["pictures"], seconds["clips"])


def write_measured(folder: Path, measured: Sequence[Measurement], command: str) -> None:
    """Write the tables into a checkpoint's card, in place of older ones, and the numbers beside it as JSON."""
    text = (folder / CARD).read_text(encoding="utf-8").split(HEADING)[0].rstrip()
    tables = "\n\n".join(m.table() for m in measured)
    machine = f"one core, {platform.machine()}"
    write_text(folder / MEASURED, json.dumps({"command": command, "measurements": [m.to_dict() for m in measured]},
                                             indent=1) + "\n")
    write_text(folder / CARD, f"""{text}

{HEADING}

By `{command}` on {machine}; `{MEASURED}` holds the same numbers. The weights are stored in half precision and the
numbers are of those. Objects of which less than {VISIBLE_SHARE:.0%} can be seen are left out and counted.

```
{tables}
```
""")


def compare_image(reading: ImageReading, scene: Scene, visible: list[float], tally: Tally) -> None:
    """Add what is right and wrong in one picture."""
    truth = truth_of(scene, 0.0)
    seen = [k for k in range(len(scene.objects)) if visible[k] >= VISIBLE_SHARE]
    hidden = len(scene.objects) - len(seen)
    found = paired({k: (float(truth[k, 1]), float(truth[k, 2])) for k in range(len(scene.objects))}, reading.objects)
    if hidden:
        tally.skip("objects that are mostly hidden", hidden)
        tally.skip("scenes with a mostly hidden object (count)")
    else:
        tally.add("count", reading.count == len(seen))
    for k in seen:
        thing = scene.objects[k]
        read = reading.objects[found[k]] if k in found else None
        tally.add("color", read is not None and read.color == thing.color)
        tally.add("shape", read is not None and read.shape == thing.shape)
        tally.add("size", read is not None and read.size == thing.size)
        right = read is not None and all(
            abs(a - b) <= NEAR for a, b in zip(read.position, truth[k, 6:9].tolist(), strict=True)
        )
        tally.add("position (0.4 m)", right)
        true_places = places(scene, k)
        read_places = reading.place(found[k]) if k in found else dict.fromkeys(PLACES)
        for place in PLACES:
            if true_places[place]:
                _three_valued(tally, "place words", True, read_places[place])
    for a in seen:
        for b in seen:
            if a == b or a not in found or b not in found:
                continue
            for relation in ASKED:
                true = related(scene, a, b, relation)
                if true is not None:
                    _three_valued(tally, "relations", true, reading.relation(found[a], relation, found[b]))


def _three_valued(tally: Tally, name: str, true: bool, read: bool | None) -> None:
    """A verdict counts; an abstention is left out and counted."""
    if read is None:
        tally.skip(f"{name}: abstained")
    else:
        tally.add(name, read == true)


def paired(spots: dict[int, tuple[float, float]], read: tuple[ReadObject, ...]) -> dict[int, int]:
    """Which reading is of which true object, by where they are in the picture, the nearest pairs first."""
    distances = sorted(
        (math.dist(spot, (o.u, o.v)), k, j) for k, spot in spots.items() for j, o in enumerate(read)
    )
    found: dict[int, int] = {}
    for distance, k, j in distances:
        if distance <= SAME_SPOT and k not in found and j not in found.values():
            found[k] = j
    return found


def compare_video(reading: VideoReading, scene: Scene, shown: Rendering, tally: Tally) -> None:
    """Add what is right and wrong in one clip."""
    times = reading.times
    truths = [truth_of(scene, time) for time in times]
    visible = shown.visible[0].tolist()
    seen = seen_objects(shown.visible.numpy())[0]
    everything = all(seen[: len(scene.objects)])
    matched: dict[int, Track] = {}
    for k, thing in enumerate(scene.objects):
        if not seen[k]:
            tally.skip("objects of clips that are mostly hidden")
            continue
        spots = [(float(t[k, 1]), float(t[k, 2])) if visible[i][k] >= VISIBLE_SHARE else None
                 for i, t in enumerate(truths)]
        track = max(reading.tracks, key=lambda t: _hits(t, spots), default=None)
        hits = _hits(track, spots) if track is not None else 0
        for _ in range(hits):
            tally.add("track (a frame)", True)
        for _ in range(sum(s is not None for s in spots) - hits):
            tally.add("track (a frame)", False)
        ours = track if track is not None and hits else None
        if ours is not None:
            matched[k] = ours
        tally.add("clip color", ours is not None and ours.color == thing.color)
        tally.add("clip shape", ours is not None and ours.shape == thing.shape)
        if not changes_size(scene, k):
            tally.add("clip size", ours is not None and ours.size == thing.size)
        true = [e.motion.kind for e in shown_events(scene, k, tally)]
        read = [m.motion.kind for m in ours.motions] if ours is not None else None
        tally.add("motion words", read is not None and _once(read) == _once(list(true)))
    if everything and all(always_there(scene, k) for k in range(len(scene.objects))):
        tally.add("clip count", reading.count == len(scene.objects))
    _compare_order(matched, scene, tally)


def shown_events(scene: Scene, index: int, tally: Tally | None = None) -> list[Event]:
    """The events of an object that the clip shows: what it does before it appears or after it vanishes is not seen."""
    events = events_of(scene, index)
    shown = [e for e in events if e.motion.kind in ("appear", "vanish")
             or state_at(scene, index, (e.motion.start + e.motion.end) / 2).present]
    if tally is not None and len(shown) < len(events):
        tally.skip("motions of an object that is not there", len(events) - len(shown))
    return shown


def _once(kinds: list[Any]) -> list[Any]:
    """The kinds in order, repetitions in a row said once: two moves to the left with a rest between are one."""
    return [kind for i, kind in enumerate(kinds) if i == 0 or kinds[i - 1] != kind]


def _hits(track: Track, spots: list[tuple[float, float] | None]) -> int:
    return sum(spot is not None and o is not None and math.dist(spot, (o.u, o.v)) <= SAME_SPOT
               for spot, o in zip(spots, track.frames, strict=True))


def _compare_order(matched: dict[int, Track], scene: Scene, tally: Tally) -> None:
    """Whether events of different objects, of which one is over before the other starts, come in that order."""
    events = [e for k in matched for e in shown_events(scene, k)]
    for first in events:
        for second in events:
            if first.index >= second.index or precedes(first, second) is None:
                continue
            starts = []
            for event in (first, second):
                read = [m.motion for m in matched[event.index].motions if m.motion.kind == event.motion.kind]
                starts.append(read[0].start + read[0].end if read else None)
            known = starts[0] is not None and starts[1] is not None
            tally.add("order", known and (starts[0] < starts[1]) == precedes(first, second))  # type: ignore[operator]
