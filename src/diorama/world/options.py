"""SelfEval's option sets (arXiv 2311.10708, section 4): captions of which exactly one is true of the picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, get_args

from diorama.errors import InputError
from diorama.world.captions import true_relations
from diorama.world.facts import RELATIONS, Visible, changes_size, is_seen
from diorama.world.references import is_usual, refer
from diorama.world.scene import COLORS, SHAPES, SIZES, Color, Scene, Shape, Size
from diorama.world.statements import (
    Count,
    Description,
    Exists,
    Relation,
    Statement,
    describe,
    holds,
)
from diorama.world.vocabulary import a, number_word, plural

Task = Literal["attribute", "color", "count", "shape", "spatial", "corruption"]
TASKS: tuple[Task, ...] = get_args(Task)
OPTIONS: dict[Task, int] = {
    "attribute": 2,
    "color": 4,
    "count": 4,
    "shape": 3,
    "spatial": 4,
    "corruption": 5,
}
"""How many options each task has in the paper."""
ATTEMPTS = 40


@dataclass(frozen=True)
class OptionSet:
    """Captions for one picture; `options[answer]` is the true one. `chance` is the share a guesser gets right."""

    task: Task
    options: tuple[str, ...]
    answer: int

    @property
    def chance(self) -> float:
        return 1 / len(self.options)


def option_sets(
    scene: Scene, rng: Random, *, tasks: Iterable[Task] | None = None, visible: Visible = None
) -> list[OptionSet]:
    """One option set for each task that the scene supports, in the order asked.

    `tasks` limits the tasks (default: all six). Every option but one is certainly false, or, for `corruption`,
    not a sentence. Raises InputError for an unknown task.
    """
    found = []
    for task in TASKS if tasks is None else tasks:
        if task not in TASKS:
            raise InputError(f"there is no task {task!r}; the tasks are {', '.join(TASKS)}.")
        options = _MAKERS[task](scene, rng, visible)
        if options is None:
            continue
        order = list(range(len(options)))
        rng.shuffle(order)
        found.append(OptionSet(task, tuple(options[i] for i in order), order.index(0)))
    return found


def _seen(scene: Scene, rng: Random, visible: Visible) -> list[int]:
    indices = [i for i in range(len(scene.objects)) if is_seen(i, visible)]
    rng.shuffle(indices)
    return indices


def _false(scene: Scene, statement: Statement, visible: Visible) -> bool:
    return holds(statement, scene, visible) is False


def _attribute(scene: Scene, rng: Random, visible: Visible) -> list[str] | None:
    """Two objects, and the same two with one attribute swapped."""
    indices = _seen(scene, rng, visible)
    for i in indices:
        for j in indices:
            for swapped in rng.sample(("color", "size"), 2):
                first = describe(scene, i, swapped, "shape")
                second = describe(scene, j, swapped, "shape")
                unsteady = changes_size(scene, i) or changes_size(scene, j)
                if i == j or first.shape == second.shape or (swapped == "size" and unsteady):
                    continue
                crossed = (
                    Description(first.shape, second.color, second.size),
                    Description(second.shape, first.color, first.size),
                )
                usual = all(is_usual(scene, what) for what in crossed)
                if usual and all(_false(scene, Exists(what), visible) for what in crossed):
                    return [_two(first, second), _two(*crossed)]
    return None


def _two(first: Description, second: Description) -> str:
    return f"{a(first.words())} and {a(second.words())}"


def _color(scene: Scene, rng: Random, visible: Visible) -> list[str] | None:
    for i in _seen(scene, rng, visible):
        what = describe(scene, i, "color", "shape")
        others = [Description(what.shape, c) for c in rng.sample(COLORS, len(COLORS)) if c != what.color]
        false = [o for o in others if is_usual(scene, o) and _false(scene, Exists(o), visible)]
        if len(false) >= OPTIONS["color"] - 1:
            return [a(o.words()) for o in (what, *false[: OPTIONS["color"] - 1])]
    return None


def _shape(scene: Scene, rng: Random, visible: Visible) -> list[str] | None:
    for i in _seen(scene, rng, visible):
        what = describe(scene, i, "color", "shape")
        others = [Description(s, what.color) for s in rng.sample(SHAPES, len(SHAPES)) if s != what.shape]
        false = [o for o in others if is_usual(scene, o) and _false(scene, Exists(o), visible)]
        if len(false) >= OPTIONS["shape"] - 1:
            return [a(o.words()) for o in (what, *false[: OPTIONS["shape"] - 1])]
    return None


def _count(scene: Scene, rng: Random, visible: Visible) -> list[str] | None:
    seen = _seen(scene, rng, visible)
    whats = [Description(), *(describe(scene, i, part) for i in seen for part in ("shape", "color"))]
    rng.shuffle(whats)
    numbers = {n for what in whats for n in range(1, 6) if holds(Count(what, n), scene, visible)}
    wanted = rng.choice(sorted(numbers)) if numbers else 0
    for what in whats:
        truths = {n: holds(Count(what, n), scene, visible) for n in range(1, 6)}
        right = [n for n, value in truths.items() if value]
        wrong = [n for n, value in truths.items() if value is False]
        if right == [wanted] and len(wrong) >= OPTIONS["count"] - 1:
            chosen = [right[0], *rng.sample(wrong, OPTIONS["count"] - 1)]
            return [_several(what, number) for number in chosen]
    return None


def _several(what: Description, number: int) -> str:
    noun = what.words() if number == 1 else plural(what.color, what.shape, what.size)
    return f"{number_word(number)} {noun}"


def _spatial(scene: Scene, rng: Random, visible: Visible) -> list[str] | None:
    """A true relation of two objects among false ones, of the same two as far as they go."""
    found = true_relations(scene, visible)
    rng.shuffle(found)
    for x, relation, y in found:
        first, second = refer(scene, x, rng, visible), refer(scene, y, rng, visible)
        if first is None or second is None:
            continue
        right = Relation(first, relation, second)
        false: list[Relation] = []
        for family in (RELATIONS[:4], RELATIONS[4:]):
            pairs = ((first, second), (second, first))
            possible = [Relation(one, r, other) for one, other in pairs for r in family]
            rng.shuffle(possible)
            false += [p for p in possible if _false(scene, p, visible)]
        if len(false) >= OPTIONS["spatial"] - 1:
            chosen = [right, *false[: OPTIONS["spatial"] - 1]]
            return [f"{a(r.first.words())} {r.relation} {a(r.second.words())}" for r in chosen]
    return None


def _corruption(scene: Scene, rng: Random, visible: Visible) -> list[str] | None:
    """A true sentence and four reorderings of its words (ARO's COCO-Order, arXiv 2210.01936, section 2)."""
    found = true_relations(scene, visible)
    rng.shuffle(found)
    for x, relation, y in found[:4]:
        names = [describe(scene, i, "size", "color", "shape") for i in (x, y)]
        if changes_size(scene, x) or changes_size(scene, y):
            continue
        words = f"{a(names[0].words())} is {relation} {a(names[1].words())}".split()
        options = [" ".join(words)]
        for reorder in (_shuffle_content, _shuffle_rest, _shuffle_within_trigrams, _shuffle_trigrams):
            for _ in range(ATTEMPTS):
                mixed = reorder(words, rng)
                if " ".join(mixed) not in options and _is_wrong(mixed, scene, visible):
                    options.append(" ".join(mixed))
                    break
        if len(options) == OPTIONS["corruption"]:
            return options
    return None


def _is_content(word: str) -> bool:
    return word in (*SHAPES, *COLORS, *SIZES)


def _shuffle_chosen(words: list[str], chosen: list[int], rng: Random) -> list[str]:
    mixed = list(words)
    for target, source in zip(chosen, rng.sample(chosen, len(chosen)), strict=True):
        mixed[target] = words[source]
    return mixed


def _shuffle_content(words: list[str], rng: Random) -> list[str]:
    return _shuffle_chosen(words, [i for i, w in enumerate(words) if _is_content(w)], rng)


def _shuffle_rest(words: list[str], rng: Random) -> list[str]:
    return _shuffle_chosen(words, [i for i, w in enumerate(words) if not _is_content(w)], rng)


def _trigrams(words: list[str]) -> list[list[str]]:
    return [words[i : i + 3] for i in range(0, len(words), 3)]


def _shuffle_within_trigrams(words: list[str], rng: Random) -> list[str]:
    return [w for part in _trigrams(words) for w in rng.sample(part, len(part))]


def _shuffle_trigrams(words: list[str], rng: Random) -> list[str]:
    parts = _trigrams(words)
    return [w for part in rng.sample(parts, len(parts)) for w in part]


def _is_wrong(words: Sequence[str], scene: Scene, visible: Visible) -> bool:
    """Whether the words are no sentence about two objects, or one that is certainly false."""
    statement = read_relation(words)
    return statement is None or _false(scene, statement, visible)


def read_relation(words: Sequence[str]) -> Relation | None:
    """The statement that the words make if they read `a SIZE COLOR SHAPE is RELATION a SIZE COLOR SHAPE`.

    The article is not minded, so "a orange cube" counts as a sentence.
    """
    if "is" not in words:
        return None
    middle = list(words).index("is")
    first, rest = words[:middle], list(words[middle + 1 :])
    relation = next((r for r in RELATIONS if rest[: len(r.split())] == r.split()), None)
    if relation is None:
        return None
    one, other = _read_name(first), _read_name(rest[len(relation.split()) :])
    return None if one is None or other is None else Relation(one, relation, other)


def _read_name(words: Sequence[str]) -> Description | None:
    if len(words) != 4 or words[0] not in ("a", "an"):
        return None
    sizes: dict[str, Size] = {s: s for s in SIZES}
    colors: dict[str, Color] = {c: c for c in COLORS}
    shapes: dict[str, Shape] = {s: s for s in SHAPES}
    size, color, shape = sizes.get(words[1]), colors.get(words[2]), shapes.get(words[3])
    if size is None or color is None or shape is None:
        return None
    return Description(shape, color, size)


_MAKERS = {
    "attribute": _attribute,
    "color": _color,
    "count": _count,
    "shape": _shape,
    "spatial": _spatial,
    "corruption": _corruption,
}
