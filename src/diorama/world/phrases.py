"""Phrases of option sets read back into statements, and held against what the oracle reads in a picture.

"a red cube", "a red cube and a blue sphere", "two red objects", "a cube (is) left of a cone": what `world.options`
makes.
"""

from __future__ import annotations

from collections.abc import Sequence

from diorama.world.facts import RELATIONS
from diorama.world.judging import both_bound, has_object, judge
from diorama.world.readings import ImageReading, VideoReading
from diorama.world.scene import COLORS, SHAPES, SIZES, Color, Shape, Size
from diorama.world.statements import Count, Description, Exists, Relation, Statement
from diorama.world.vocabulary import NUMBERS, PLURALS, split_words

ARTICLES = ("a", "an", "the", "one")
NOUNS: dict[str, Shape | None] = {
    **{shape: shape for shape in SHAPES}, **{several: shape for shape, several in PLURALS.items()},
    "object": None, "objects": None,
}


def read_phrase(text: str) -> list[Statement] | None:
    """The statements that a phrase makes: one, or two existences for "a ... and a ..."; None for any other text."""
    words = split_words(text)
    related = _read_relation(words)
    if related is not None:
        return [related]
    if words and words[0] in NUMBERS[1:]:
        counted = read_description(words[1:])
        return None if counted is None else [Count(counted, NUMBERS.index(words[0]))]
    parts = [words]
    if "and" in words:
        middle = words.index("and")
        parts = [words[:middle], words[middle + 1 :]]
    named = [read_description(part) for part in parts]
    return None if any(what is None for what in named) else [Exists(what) for what in named if what is not None]


def read_description(words: Sequence[str]) -> Description | None:
    """The attributes in words such as `a small red cube` or `red objects`; None where they are none."""
    rest = list(words[1:] if words and words[0] in ARTICLES else words)
    if not rest or rest[-1] not in NOUNS:
        return None
    sizes: dict[str, Size] = {size: size for size in SIZES}
    colors: dict[str, Color] = {color: color for color in COLORS}
    size = sizes.get(rest[0])
    rest = rest[1:] if size else rest
    color = colors.get(rest[0]) if rest else None
    rest = rest[1:] if color else rest
    return Description(NOUNS[rest[0]], color, size) if len(rest) == 1 and rest[0] in NOUNS else None


def _read_relation(words: Sequence[str]) -> Relation | None:
    for relation in RELATIONS:
        wanted = relation.split()
        for start in range(1, len(words) - len(wanted)):
            if list(words[start : start + len(wanted)]) != wanted:
                continue
            before = list(words[:start])
            while before and before[-1] in ("is", "to", "the"):
                before.pop()
            first, second = read_description(before), read_description(words[start + len(wanted):])
            if first is not None and second is not None:
                return Relation(first, relation, second)
    return None


def shows(reading: ImageReading | VideoReading, text: str) -> bool | None:
    """Whether a picture, as read, shows what a phrase says; None where the reading is unsure or the text is no phrase.

    Two objects joined by "and" must be two different objects, each with its own attributes.
    """
    statements = read_phrase(text)
    if statements is None:
        return None
    named = [statement.what for statement in statements if isinstance(statement, Exists)]
    if len(named) == 2:
        return both_bound(reading, *named)
    return has_object(reading, named[0]) if named else judge(reading, statements)[0]
