"""The world's examination: six tasks of option sets on fresh renders, and Winoground-style pairs with exact truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from diorama.systems.selfeval.items import Item, Pair
from diorama.world.facts import related
from diorama.world.options import TASKS, OptionSet, Task, option_sets
from diorama.world.pool import seen_objects
from diorama.world.rendering import render
from diorama.world.sampling import NOVEL_LOOKS, Split, is_clear, sample_scene
from diorama.world.scene import Scene, SceneObject
from diorama.world.vocabulary import a

FIRST_SEED = 60_000_000
ATTEMPTS = 40
OBJECTS: dict[Task, tuple[int, int]] = {
    "attribute": (2, 2), "color": (1, 2), "count": (1, 4), "shape": (1, 2), "spatial": (2, 2), "corruption": (2, 2),
}
"""How many objects a scene of each task holds: no more than it needs, since a miniature draws few."""


def world_items(each: int, *, tasks: Sequence[Task] = TASKS, size: int = 32, split: Split = "test",
                seed: int = 0) -> list[Item]:
    """`each` items of every task on scenes of the split, rendered at `size` pixels."""
    found: list[Item] = []
    for place, task in enumerate(tasks):
        scenes: list[Scene] = []
        sets: list[OptionSet] = []
        number = FIRST_SEED + 1_000_000 * place + 100_000 * seed
        while len(sets) < each:
            scene = sample_scene(number, split=split, objects=OBJECTS[task])
            number += 1
            rng = Random(f"diorama selfeval {task} {number}")
            visible = seen_objects(render([scene], size=size).visible.numpy())[0].tolist()[: len(scene.objects)]
            options = option_sets(scene, rng, tasks=(task,), visible=visible) if all(visible) else []
            if options:
                scenes.append(scene)
                sets.append(options[0])
        pixels = render(scenes, size=size, samples=2).rgb[:, 0].numpy()
        found += [Item(pixels[row], one.options, one.answer, task, one.chance) for row, one in enumerate(sets)]
    return found


def world_pairs(count: int, *, size: int = 32, split: Split = "test", seed: int = 0) -> list[Pair]:
    """Pairs whose two captions have the same words: colors changed over (tag Object) or places (tag Relation)."""
    scenes: list[Scene] = []
    told: list[tuple[str, str, str]] = []
    number = FIRST_SEED + 10_000_000 + 100_000 * seed
    while len(told) < count:
        scene = sample_scene(number, split=split, objects=(2, 2), stacking=0.0)
        number += 1
        made = _recolored(scene) if len(told) % 2 == 0 else _exchanged(scene)
        if made is None:
            continue
        other, first, second = made
        seen = seen_objects(render([scene, other], size=size).visible.numpy())
        if seen[:, :2].all():
            scenes += [scene, other]
            told.append((first, second, "Object" if len(told) % 2 == 0 else "Relation"))
    pixels = render(scenes, size=size, samples=2).rgb[:, 0].numpy()
    return [Pair((pixels[2 * k], pixels[2 * k + 1]), (first, second), tag)
            for k, (first, second, tag) in enumerate(told)]


def _recolored(scene: Scene) -> tuple[Scene, str, str] | None:
    """The scene with the colors of its two objects changed over, and the captions of both."""
    one, two = scene.objects
    if one.shape == two.shape or one.color == two.color:
        return None
    other = replace(scene, objects=(replace(one, color=two.color), replace(two, color=one.color)))
    if any((thing.color, thing.shape) in NOVEL_LOOKS for thing in other.objects):
        return None
    return other, _both(scene.objects), _both(other.objects)


def _exchanged(scene: Scene) -> tuple[Scene, str, str] | None:
    """The scene with its two objects in each other's places, and who is left of whom in both."""
    one, two = scene.objects
    names = [f"{thing.color} {thing.shape}" for thing in (one, two)]
    other = replace(scene, objects=(replace(one, position=two.position), replace(two, position=one.position)))
    if names[0] == names[1] or not is_clear(other):
        return None
    relations = {False: f"{a(names[0])} left of {a(names[1])}", True: f"{a(names[1])} left of {a(names[0])}"}
    orders = [_second_is_left(each) for each in (scene, other)]
    if None in orders or orders[0] == orders[1]:
        return None
    return other, relations[bool(orders[0])], relations[bool(orders[1])]


def _second_is_left(scene: Scene) -> bool | None:
    return False if related(scene, 0, 1, "left of") else (True if related(scene, 1, 0, "left of") else None)


def _both(things: Sequence[SceneObject]) -> str:
    """Named by shape in a fixed order, so that both captions of a pair have the same words in other places."""
    ordered = sorted(things, key=lambda thing: thing.shape)
    return " and ".join(a(f"{thing.color} {thing.shape}") for thing in ordered)
