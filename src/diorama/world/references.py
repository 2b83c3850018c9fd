"""Referring expressions: naming one object of a scene so that nobody can mistake it for another."""

from __future__ import annotations

from random import Random

from diorama.world.facts import Visible, changes_size, is_seen
from diorama.world.sampling import NOVEL_LOOKS
from diorama.world.scene import Scene
from diorama.world.statements import Description, describe, is_unique

FORMS: tuple[tuple[str, ...], ...] = (
    ("shape",),
    ("color",),
    ("color", "shape"),
    ("size", "shape"),
    ("size", "color"),
    ("size", "color", "shape"),
)
"""Kinds of expression, the shortest first; without a shape the noun is `object`."""


def references(
    scene: Scene,
    index: int,
    visible: Visible = None,
    *,
    without: tuple[str, ...] = (),
    longest: int = 3,
) -> list[Description]:
    """All unique descriptions of an object, shortest first, that do not mention the attributes in `without`.

    Empty when the object cannot be seen or named apart from the others. `longest` bounds the number of words.
    """
    if not is_seen(index, visible):
        return []
    found = []
    for form in FORMS:
        if set(form) & set(without) or ("size" in form and changes_size(scene, index)):
            continue
        what = describe(scene, index, *form)
        if len(what.words().split()) <= longest and is_unique(scene, index, what):
            found.append(what)
    return found


def refer(
    scene: Scene,
    index: int,
    rng: Random,
    visible: Visible = None,
    *,
    without: tuple[str, ...] = (),
    longest: int = 3,
) -> Description | None:
    """One unique description, mostly among the shorter ones; None when there is none."""
    found = references(scene, index, visible, without=without, longest=longest)
    if not found:
        return None
    weights = [1.0 if what.shape else 0.4 for what in found]
    return rng.choices(found, [w / (1 + 0.3 * rank) for rank, w in enumerate(weights)])[0]


def answer_names(scene: Scene, index: int, visible: Visible = None) -> str | None:
    """The name used in answers: color and shape where they are unique, else all three words, else None."""
    for form in (("color", "shape"), ("size", "color", "shape")):
        what = describe(scene, index, *form)
        changing = "size" in form and changes_size(scene, index)
        if is_seen(index, visible) and not changing and is_unique(scene, index, what):
            return what.words()
    return None


def is_usual(scene: Scene, what: Description) -> bool:
    """Whether absent objects of this look may be spoken of without giving the novel split away.

    A color-shape pair that is kept for the novel split is never true of a training scene: mentioning it there
    would teach that it is always false.
    """
    if what.color is None or what.shape is None or (what.color, what.shape) not in NOVEL_LOOKS:
        return True
    return any((thing.color, thing.shape) in NOVEL_LOOKS for thing in scene.objects)
