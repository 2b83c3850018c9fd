"""When something happens in a clip: yes-or-no questions about windows of it, sharpened by where pixels change.

The model is asked the same question of overlapping windows, which says roughly when. Where the clip rests before and
after, the first and last frames that change say exactly when. The resolution that was reached is part of the result.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diorama.media.videos import FrameSampler, read_video

MAX_FRAMES = 128
"""Frames compared with their successors, spread over the clip."""
MAX_BYTES = 512 * 1024 ** 2
"""Fewer are compared where they are large."""
GRID = 32
"""Frames are averaged to this many cells a side before they are compared, so that coding noise does not count."""
CHANGED = 6.0
"""Grey levels (of 255) by which a cell must differ for the frame to count as changed."""
LAG = 0.2
"""Seconds over which a slow change adds up to one that is seen."""
SHORTEST = 0.6
"""Seconds a window lasts at least: in less nothing can be recognized as a motion."""
WINDOWS = 4
"""Windows fit this many times into the clip; they overlap by half."""


@dataclass(frozen=True)
class Window:
    """A part of the clip, what the model said of it, and the probability of yes."""

    start: float
    end: float
    raw: str
    probability: float
    seconds: float
    indices: tuple[int, ...]
    timestamps: tuple[float, ...]


@dataclass(frozen=True)
class Located:
    """The span in seconds, None where the model sees nothing of the kind; its probability and its resolution."""

    span: tuple[float, float] | None
    resolution: float
    probability: float
    windows: tuple[Window, ...]


def locate(vision: Any, path: Path, question: str, frames: int | None = None) -> Located:
    """The span of the clip for which the model answers `question`, a yes-or-no question, with yes."""
    activity = Activity.of(path)
    windows = [_ask(vision, path, question, frames, start, end) for start, end in candidates(activity)]
    best = max(windows, key=lambda window: window.probability)
    if best.probability < 0.5:                            # what changes is too small or slow for `Activity`
        asked = {(window.start, window.end) for window in windows}
        rest = [part for part in slid(0.0, activity.duration, activity.duration) if part not in asked]
        windows += [_ask(vision, path, question, frames, start, end) for start, end in rest]
        best = max(windows, key=lambda window: window.probability)
    if best.probability < 0.5:
        return Located(None, activity.step, best.probability, tuple(windows))
    span, resolution = activity.sharpened(*run_of_yes(windows, best), slack=best.end - best.start)
    return Located(span, resolution, best.probability, tuple(windows))


def candidates(activity: Activity) -> list[tuple[float, float]]:
    """The windows to ask about: each stretch in which something changes, and a sliding window over long ones."""
    found = []
    for start, end in activity.stretches() or [(0.0, activity.duration)]:
        found += slid(*_at_least(start, end, activity.duration), activity.duration)
    return list(dict.fromkeys(found))


def slid(start: float, end: float, duration: float) -> list[tuple[float, float]]:
    """Overlapping windows from start to end, or one where they are not much longer than a window."""
    length = max(SHORTEST, duration / WINDOWS)
    if end - start < 1.5 * length:
        return [(start, end)]
    count = round(2 * (end - start - length) / length) + 1
    return [(s, s + length) for s in np.linspace(start, end - length, count).tolist()]


def _at_least(start: float, end: float, duration: float) -> tuple[float, float]:
    """The stretch with a little of what is before and after, so that a change can be seen as one."""
    missing = max(SHORTEST - (end - start), 0.2) / 2
    return max(0.0, start - missing), min(duration, end + missing)


def run_of_yes(windows: list[Window], best: Window) -> tuple[float, float]:
    """From the best window on both sides to where the answers turn to no."""
    ordered = sorted(windows, key=lambda window: window.start)
    first = last = ordered.index(best)
    while first > 0 and ordered[first - 1].probability >= 0.5 and ordered[first - 1].end > ordered[first].start:
        first -= 1
    while (last + 1 < len(ordered) and ordered[last + 1].probability >= 0.5
           and ordered[last + 1].start < ordered[last].end):
        last += 1
    start, end = ordered[first].start, ordered[last].end
    if first > 0 and ordered[first - 1].end > start:                      # a window that says no reaches into the run
        start = min((start + ordered[first - 1].end) / 2, best.end)
    if last + 1 < len(ordered) and ordered[last + 1].start < end:
        end = max((end + ordered[last + 1].start) / 2, best.start)
    return start, end


def _ask(vision: Any, path: Path, question: str, frames: int | None, start: float, end: float) -> Window:
    began = time.perf_counter()
    shown = vision.show([path], vision.sampler(frames=frames, start=start, end=end))
    chosen = shown.choose(question, ("yes", "no"))
    looked = shown.looked[0]
    return Window(start, end, chosen.text, float(chosen.probabilities["yes"]), time.perf_counter() - began,
                  tuple(looked.indices), tuple(looked.timestamps))


@dataclass(frozen=True)
class Activity:
    """Between which moments of a clip anything changes.

    times (N,): seconds of the frames looked at; changed (N - 1,): whether frame i + 1 differs from frame i.
    """

    times: np.ndarray
    changed: np.ndarray
    duration: float
    step: float

    @classmethod
    def of(cls, path: Path) -> Activity:
        """Compare the frames of a clip, at most MAX_FRAMES of them. Raises MediaError."""
        few = read_video(path, FrameSampler(frames=2))
        fitting = max(2, MAX_BYTES // few.frames[0].nbytes)
        video = read_video(path, FrameSampler(frames=min(few.total_frames, MAX_FRAMES, fitting)))
        cells = np.stack([_cells(frame) for frame in video.frames])
        times = np.array(video.timestamps)
        step = float(np.diff(times).max()) if len(times) > 1 else video.duration
        return cls(times, _changes(cells, max(1, round(LAG / step))), video.duration, step)

    def stretches(self) -> list[tuple[float, float]]:
        """The spans in which something changes; rests shorter than three frames do not divide one."""
        found: list[tuple[float, float]] = []
        for index in np.flatnonzero(self.changed):
            start, end = float(self.times[index]), float(self.times[index + 1])
            if found and start - found[-1][1] <= 3 * self.step:
                found[-1] = (found[-1][0], end)
            else:
                found.append((start, end))
        return found

    def sharpened(self, start: float, end: float, slack: float) -> tuple[tuple[float, float], float]:
        """The span drawn in to where changes begin and end inside it, and the resolution in seconds.

        An edge that falls into a rest is exact to a frame; one in the midst of changes only to half a window.
        """
        for first, last in self.stretches():
            if first < end and last > start:
                exact = first >= start - self.step and last <= end + self.step
                return (max(first, start), min(last, end)), self.step if exact else slack / 2
        return (start, end), slack / 2


def _changes(cells: np.ndarray, lag: int) -> np.ndarray:
    """Which of the N - 1 steps between N frames change: those that do so visibly, and those of slow changes.

    A change is slow where frames `lag` steps apart differ although no step between them does; it is taken to lie in the
    middle of them.
    """
    changed = np.abs(np.diff(cells, axis=0)).max(axis=(1, 2, 3), initial=0) > CHANGED
    found = changed.copy()
    for first in range(len(cells) - lag):
        if not changed[first:first + lag].any() and np.abs(cells[first + lag] - cells[first]).max() > CHANGED:
            found[first + lag // 2] = True
    return found


def _cells(frame: np.ndarray) -> np.ndarray:
    """A frame (H, W, 3) as the mean colors of its cells, float32 (GRID, GRID, 3)."""
    return np.asarray(Image.fromarray(frame).resize((GRID, GRID), Image.Resampling.BOX), dtype=np.float32)
