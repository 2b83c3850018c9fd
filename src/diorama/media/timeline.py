"""When each frame of a clip is shown, whatever the file says about its frame rate."""

from bisect import bisect_right
from dataclasses import dataclass

CLOCK_SLACK = 1e-4
"""Seconds by which a typed time may miss a frame's: 1.4 is no binary fraction, and stamps are rounded by containers."""


@dataclass(frozen=True)
class Timeline:
    """The frames of one clip in the order they are shown.

    `times` are seconds since the first frame, one a frame, increasing; `duration` ends the last frame. A file that
    breaks off lists the frames that its header promises, of which the first `readable` can be decoded.
    """

    times: tuple[float, ...]
    duration: float
    readable: int
    width: int
    height: int

    @property
    def fps(self) -> float:
        """Frames a second, averaged over the whole clip."""
        return len(self.times) / self.duration

    def between(self, start: float, end: float) -> range:
        """Indices of the frames on screen at `start` or shown later, up to those that appear at `end` inclusive."""
        first = max(bisect_right(self.times, start + CLOCK_SLACK) - 1, 0)
        return range(first, max(bisect_right(self.times, end + CLOCK_SLACK), first + 1))
