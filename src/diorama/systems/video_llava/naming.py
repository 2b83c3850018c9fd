"""What words can be said of an object at a moment: the truth that regions are aligned with (`align.py`) and that stands
in the tokens' place when the world is told (`told.py`).

An object is named an attribute at a time, so that pairs which training never shows can be named too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diorama.world.facts import DEPTHS, SIDES, Event, events, events_of, place_at
from diorama.world.happenings import clear_end
from diorama.world.scene import COLORS, MOTIONS, SHAPES, SIZES, Scene
from diorama.world.vocabulary import VERBS

NOTHING = "nothing"
"""What the ground's patches show."""
DOINGS = (*(VERBS[kind] for kind in MOTIONS), "stays still")
"""What an object can be doing."""
STILL = len(DOINGS) - 1
WHENS = ("first", "last")
"""Said of an object while it does what clearly starts first of all that happens in the clip, or ends last."""
WORDS_OF: dict[str, tuple[str, ...]] = {
    "size": (*SIZES, NOTHING), "color": (*COLORS, NOTHING), "shape": (*SHAPES, NOTHING),
    "side": SIDES, "depth": DEPTHS, "doing": DOINGS, "when": WHENS}
"""The attributes, each with all words there are for it."""
UNSAID = -1
"""Stands for a word where nothing is to be said: an object between left and middle, what a still object does when."""
MOST_OBJECTS = 5


def words_of(scene: Scene, frames: int) -> np.ndarray:
    """Places in WORDS_OF of what is to be said of each object in each of `frames` even frames, int64 (T, 5, A).

    A still is one frame, in which nothing is done.
    """
    said = np.full((frames, MOST_OBJECTS, len(WORDS_OF)), UNSAID)
    size, color, shape, side, depth, doing, when = np.moveaxis(said, -1, 0)        # views, each (T, 5)
    spacing = scene.duration / max(frames - 1, 1)
    happening = events(scene)
    ends = clear_end(happening, last=False), clear_end(happening, last=True)
    for k, thing in enumerate(scene.objects):
        size[:, k], color[:, k] = SIZES.index(thing.size), COLORS.index(thing.color)
        shape[:, k] = SHAPES.index(thing.shape)
        own = events_of(scene, k)
        for t in range(frames):
            there, away = place_at(scene, k, t * spacing)
            side[t, k] = UNSAID if there is None else SIDES.index(there)
            depth[t, k] = UNSAID if away is None else DEPTHS.index(away)
            if scene.duration:
                event = event_at(own, t * spacing, spacing)
                doing[t, k] = STILL if event is None else MOTIONS.index(event.motion.kind)
                when[t, k] = UNSAID if event is None or event not in ends else ends.index(event)
    return said


def event_at(happening: Sequence[Event], time: float, spacing: float) -> Event | None:
    """What happens around a moment: the first of some events within half a spacing of it."""
    for event in happening:
        if event.motion.start - spacing / 2 <= time <= event.motion.end + spacing / 2:
            return event
    return None
