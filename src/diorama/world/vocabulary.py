"""Every word that the world's language can produce: small, closed, lower case.

`WORDS` is what a tokenizer for the world needs beside punctuation; a test generates language from many seeds and
checks that nothing else appears. `split_words` is the splitting that the list refers to.
"""

from __future__ import annotations

import re

from diorama.world.scene import COLORS, PACES, SHAPES, SIZES, Color, MotionKind, Shape

NUMBERS: tuple[str, ...] = ("zero", "one", "two", "three", "four", "five", "six")
PLURALS: dict[Shape, str] = {
    "sphere": "spheres",
    "cube": "cubes",
    "cylinder": "cylinders",
    "cone": "cones",
    "torus": "tori",
    "pyramid": "pyramids",
}
VERBS: dict[MotionKind, str] = {
    "left": "moves left",
    "right": "moves right",
    "towards": "moves towards us",
    "away": "moves away",
    "up": "moves up",
    "down": "moves down",
    "spin": "spins",
    "grow": "grows",
    "shrink": "shrinks",
    "appear": "appears",
    "vanish": "vanishes",
}
"""What an object does, in the words of answers; `SYNONYMS` are further wordings for captions."""
SYNONYMS: dict[MotionKind, tuple[str, ...]] = {
    "left": ("slides left", "moves to the left", "goes left"),
    "right": ("slides right", "moves to the right", "goes right"),
    "towards": ("slides towards us", "moves towards the camera", "comes nearer"),
    "away": ("slides away", "moves away from the camera", "goes away from us"),
    "up": ("rises", "goes up"),
    "down": ("sinks", "goes down"),
    "spin": ("turns around", "rotates"),
    "grow": ("gets larger",),
    "shrink": ("gets smaller",),
    "appear": ("shows up",),
    "vanish": ("disappears",),
}
BARE_VERBS: dict[MotionKind, str] = {
    "left": "move left",
    "right": "move right",
    "towards": "move towards us",
    "away": "move away",
    "up": "move up",
    "down": "move down",
    "spin": "spin",
    "grow": "grow",
    "shrink": "shrink",
    "appear": "appear",
    "vanish": "vanish",
}

GRAMMAR = """
a an the this there is are it that which what where how many way does do and or not no yes of in on at to
from then first last after before left right middle front back behind top under side picture clip object
objects color shape size same larger smaller nearer move moves moving spin spins grow grows shrink shrinks
appear appears vanish vanishes slides goes comes rises sinks turns rotates gets shows up down towards away
us camera around disappears stay stays still something happens show count find tell me when both file more
look time number neither second
"""

WORDS: frozenset[str] = frozenset(
    {*SHAPES, *PLURALS.values(), *COLORS, *SIZES, *PACES, *NUMBERS, *GRAMMAR.split()}
)


def number_word(number: int) -> str:
    """The word for 0..6."""
    return NUMBERS[number]


def article(word: str) -> str:
    """`a` or `an` before the word."""
    return "an" if word[0] in "aeiou" else "a"


def a(phrase: str) -> str:
    """The phrase with its indefinite article."""
    return f"{article(phrase)} {phrase}"


def plural(color: Color | None, shape: Shape | None, size: str | None = None) -> str:
    """Several of them: `large red cubes`, `blue objects`."""
    noun = "objects" if shape is None else PLURALS[shape]
    return " ".join(w for w in (size, color, noun) if w)


def split_words(text: str) -> list[str]:
    """The words of a generated text, without punctuation."""
    return re.findall(r"[a-z0-9'-]+", text.lower())
