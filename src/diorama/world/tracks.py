"""Objects followed through a clip, and what they do.

Candidates are linked frame by frame by what they look like and where they stand; attributes are the votes of all
frames. What an object does is read off its place, height, radius and yaw: a coordinate is moving between two turning
points that lie further apart than stillness allows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from diorama.world.detector import Candidate
from diorama.world.readings import SURE, ReadMotion, Track, object_of, size_of
from diorama.world.scene import COLORS, RATE, SHAPES, SPEED, TURN, Motion, MotionKind, Pace, Shape

STEP_WITHIN = 1.3
"""Metres that an object may go between two frames and still be the same one, beyond the quickest pace."""
CLEAR = 0.7
"""Least score of what is there for one frame only, or at neither end of the clip."""
BEGIN = 0.25
"""Least score with which a track begins; once begun, less keeps it alive."""
STILL = {"right": 0.5, "away": 0.55, "up": 0.5, "size": 0.27, "yaw": 52.0}
"""Least change (metres, log of the radius, degrees) that is a motion. Real ones exceed 0.75 m, 0.3 and 60 degrees."""
FASTEST = {"right": 1.4 * SPEED["quickly"], "away": 1.4 * SPEED["quickly"], "up": 1.4 * SPEED["quickly"],
           "size": 1.6 * math.log(RATE["quickly"])}
"""The same a second: what changes faster was misread in a frame or two."""
TOGETHER, STEADY = 0.7, 0.15
"""How well a turn has to explain the angles, of 1, and how much better than standing still does."""
KINDS: dict[str, tuple[MotionKind, MotionKind]] = {
    "right": ("right", "left"), "away": ("away", "towards"), "up": ("up", "down"), "size": ("grow", "shrink"),
}
"""The motion that raises each coordinate and the one that lowers it."""
TURNING: tuple[Shape, ...] = ("cube", "pyramid")


@dataclass(frozen=True)
class Leg:
    """A stretch in which one coordinate goes one way."""

    coordinate: str
    change: float
    start: float
    end: float

    @property
    def margin(self) -> float:
        return abs(self.change) / STILL[self.coordinate]


def tracks_of(found: Sequence[Sequence[Candidate]], times: Sequence[float]) -> tuple[Track, ...]:
    """The tracks of a clip from the candidates of its frames at `times`, the surest first."""
    tracks = [_track(line, times) for line in _linked(found, times)]
    return tuple(sorted((t for t in tracks if t is not None), key=lambda t: -t.confidence))


def _linked(found: Sequence[Sequence[Candidate]], times: Sequence[float]) -> list[list[Candidate | None]]:
    """One list a track, with a candidate or None for each frame: the cheapest links first."""
    lines: list[list[Candidate | None]] = []
    for index, frame in enumerate(found):
        costs = []
        for i, line in enumerate(lines):
            last = max(k for k, c in enumerate(line) if c is not None)
            for j, candidate in enumerate(frame):
                before = line[last]
                assert before is not None
                cost = _unlike(before, candidate, times[index] - times[last])
                if cost is not None:
                    costs.append((cost, i, j))
        taken: dict[int, int] = {}
        for _, i, j in sorted(costs):
            if i not in taken and j not in taken.values():
                taken[i] = j
        for i, line in enumerate(lines):
            line.append(frame[taken[i]] if i in taken else None)
        for j, candidate in enumerate(frame):
            if j not in taken.values() and candidate.score >= BEGIN:
                lines.append([None] * index + [candidate])
    return lines


def _unlike(before: Candidate, after: Candidate, seconds: float) -> float | None:
    """How unlike the same object two candidates are, or None where they cannot be the same."""
    away = math.dist(before.place, after.place)
    if away > STEP_WITHIN + SPEED["quickly"] * seconds:
        return None
    same_color = sum(a * b for a, b in zip(before.colors, after.colors, strict=True))
    same_shape = sum(a * b for a, b in zip(before.shapes, after.shapes, strict=True))
    if same_color < 0.05 and away > 0.3:
        return None
    return away + 1.5 * (1 - same_color) + 0.5 * (1 - same_shape) + abs(math.log(before.radius / after.radius))


def _track(line: list[Candidate | None], times: Sequence[float]) -> Track | None:
    """One linked line as a track, or None where it is a passing error."""
    seen = [c for c in line if c is not None]
    score = sum(sorted((c.score for c in seen), reverse=True)[:3]) / min(3, len(seen))
    at_an_end = line[0] is not None or line[-1] is not None
    brief = not at_an_end and (len(seen) < 3 or score < CLEAR)
    if score < SURE or brief or (len(seen) < 2 and score < CLEAR):
        return None
    shapes = _voted([c.shapes for c in seen], [c.visible for c in seen])
    colors = _voted([c.colors for c in seen], [c.visible for c in seen])
    shape = SHAPES[max(range(len(SHAPES)), key=shapes.__getitem__)]
    radii = [c.radius for c in seen]
    return Track(
        shape=shape,
        color=COLORS[max(range(len(COLORS)), key=colors.__getitem__)],
        size=size_of(sorted(radii[: max(len(radii) // 3, 1)])[max(len(radii) // 3, 1) // 2]),
        frames=tuple(object_of(c) if c else None for c in line),
        motions=_motions(line, times, shape),
        shape_confidence=max(shapes),
        color_confidence=max(colors),
        score=score,
    )


def _voted(chances: list[tuple[float, ...]], weights: list[float]) -> list[float]:
    """The weighted geometric mean of chances, which sums to one."""
    total = sum(weights) + 1e-9
    logs = [sum(w * math.log(c[k] + 1e-4) for c, w in zip(chances, weights, strict=True)) / total
            for k in range(len(chances[0]))]
    peak = max(logs)
    mass = [math.exp(value - peak) for value in logs]
    return [m / sum(mass) for m in mass]


def _motions(line: list[Candidate | None], times: Sequence[float], shape: Shape) -> tuple[ReadMotion, ...]:
    there = [i for i, c in enumerate(line) if c is not None]
    seen = [c for c in line if c is not None]
    moments = [times[i] for i in there]
    series = {
        "right": [c.place[0] for c in seen], "away": [c.place[1] for c in seen], "up": [c.place[2] for c in seen],
        "size": [math.log(c.radius) for c in seen],
    }
    legs = [leg for name, values in series.items() for leg in legs_of(name, smoothed(values), moments)]
    if shape in TURNING:
        legs += turns_of([c.quarter_turn for c in seen], moments)
    motions = [ReadMotion(named(leg), leg.margin) for leg in one_at_a_time(legs, spacing_of(times))]
    for kind, absent, edge in (("appear", there[0], there[0]), ("vanish", len(line) - 1 - there[-1], there[-1] + 1)):
        if absent:
            moment = (times[edge - 1] + times[edge]) / 2
            motions.append(ReadMotion(Motion("appear" if kind == "appear" else "vanish", moment, moment), 2.0))
    return tuple(sorted(motions, key=lambda m: m.motion.start))


def spacing_of(times: Sequence[float]) -> float:
    """Seconds between two frames."""
    return (times[-1] - times[0]) / max(len(times) - 1, 1)


def smoothed(values: list[float]) -> list[float]:
    """The median of each value and its neighbors; the ends stay."""
    middle = [sorted(values[i - 1 : i + 2])[1] for i in range(1, len(values) - 1)]
    return [values[0], *middle, values[-1]] if len(values) > 2 else values


def legs_of(name: str, values: list[float], times: list[float]) -> list[Leg]:
    """The stretches between turning points that lie at least `STILL` apart."""
    turns = [0]
    direction = 0
    for i in range(1, len(values)):
        change = values[i] - values[turns[-1]]
        if direction and change * direction > 0:
            turns[-1] = i
        elif abs(change) >= STILL[name]:
            turns.append(i)
            direction = 1 if change > 0 else -1
        elif not direction and len(turns) == 1:
            low = min(range(i + 1), key=values.__getitem__)
            high = max(range(i + 1), key=values.__getitem__)
            if values[high] - values[low] >= STILL[name]:
                turns = [min(low, high), max(low, high)]
                direction = 1 if high > low else -1
    return [_trimmed(name, values, times, a, b) for a, b in pairwise(turns)]


def _trimmed(name: str, values: list[float], times: list[float], first: int, last: int) -> Leg:
    """The leg from one turning point to the next without the standing before and after: the straight line through
    the moments at which 15 % and 85 % of the way are done."""
    change = values[last] - values[first]

    def when(share: float) -> float:
        goal = values[first] + share * change
        for i in range(first, last):
            if (values[i] - goal) * (values[i + 1] - goal) <= 0 and values[i] != values[i + 1]:
                return times[i] + (goal - values[i]) / (values[i + 1] - values[i]) * (times[i + 1] - times[i])
        return times[last]

    early, late = when(0.15), when(0.85)
    slack = (late - early) * 0.15 / 0.7
    return Leg(name, change, max(times[first], early - slack), min(times[last], late + slack))


def turns_of(angles: list[float], times: list[float]) -> list[Leg]:
    """The stretch and pace of turning that explain best a quarter turn known in degrees within 0..90, if any does.

    Turned back by what has passed of it, all angles must lie together: the length of their mean direction, four times
    around, is compared with that of the angles as they are.
    """
    def together(speed: float, start: float, end: float) -> float:
        turned = [4 * math.radians(angle - speed * (min(max(time, start), end) - start))
                  for angle, time in zip(angles, times, strict=True)]
        return math.hypot(sum(map(math.cos, turned)), sum(map(math.sin, turned))) / len(turned)

    tries = [(together(speed, start, end), speed * (end - start), start, end)
             for speed in TURN.values() for start, end in combinations(times, 2)
             if speed * (end - start) >= STILL["yaw"]]
    best, turn, start, end = max(tries, default=(0.0, 0.0, 0.0, 0.0))
    least = max(TOGETHER, together(0.0, 0.0, 0.0) + STEADY)
    return [Leg("yaw", turn, start, end)] if best > least else []


def one_at_a_time(legs: list[Leg], spacing: float) -> list[Leg]:
    """An object does one thing at a time, at a pace of the world: of legs that overlap the clearest stays.

    spacing: seconds between two frames, by which a leg may seem too short.
    """
    kept: list[Leg] = []
    possible = [leg for leg in legs
                if abs(leg.change) <= FASTEST.get(leg.coordinate, math.inf) * (leg.end - leg.start + spacing)]
    for leg in sorted(possible, key=lambda g: -g.margin):
        def overlap(other: Leg, leg: Leg = leg) -> float:
            shared = min(leg.end, other.end) - max(leg.start, other.start)
            return shared / max(min(leg.end - leg.start, other.end - other.start), 1e-6)

        if all(overlap(other) < 0.5 for other in kept):
            kept.append(leg)
    return kept


def named(leg: Leg) -> Motion:
    seconds = max(leg.end - leg.start, 1e-3)
    if leg.coordinate == "yaw":
        per_second = leg.change / seconds
        border = math.sqrt(TURN["slowly"] * TURN["quickly"])
        return Motion("spin", leg.start, leg.end, "slowly" if per_second < border else "quickly")
    kind = KINDS[leg.coordinate][0 if leg.change > 0 else 1]
    speed = abs(leg.change) / seconds
    border = math.sqrt(SPEED["slowly"] * SPEED["quickly"])
    if leg.coordinate == "size":
        border = math.sqrt(math.log(RATE["slowly"]) * math.log(RATE["quickly"]))
    pace: Pace = "slowly" if speed < border else "quickly"
    return Motion(kind, leg.start, leg.end, pace)
