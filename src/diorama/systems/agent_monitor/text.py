"""Text as it should be compared: folded for matching, and with hidden characters made visible for reading."""

import re
import unicodedata
from functools import lru_cache

_HOMOGLYPHS = str.maketrans(
    "авеԁгհіјкӏмոорqгѕтυѵѡхуʏᴢɡɑαβεικνορτυχһԛԝ",  # noqa: RUF001
    "abedrhijklmnopqrstuvwxyyzgaabeiknoptuxhqw",
)
_WORD = re.compile(r"[^\W_]+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_ASCII_CLEAN = re.compile(r"[\x20-\x7e\n\t]*\Z")


def is_hidden(char: str) -> bool:
    """Whether a reader would not see this character: controls, zero-width, bidi, tags, fillers, private use."""
    if char in "\n\t\r":
        return False
    code = ord(char)
    return (
        unicodedata.category(char) in ("Cc", "Cf", "Co", "Cs")
        or 0xFE00 <= code <= 0xFE0E
        or 0xE0100 <= code <= 0xE01EF
        or code in (0x115F, 0x1160, 0x3164, 0xFFA0, 0x2800)
    )


def hidden_characters(text: str) -> list[str]:
    """The distinct hidden characters of a text as U+XXXX names, in order of code."""
    if _ASCII_CLEAN.match(text):
        return []
    return [f"U+{ord(char):04X}" for char in sorted(set(text)) if is_hidden(char)]


def visible(text: str) -> str:
    """The text with every hidden character replaced by its name in angle brackets."""
    if _ASCII_CLEAN.match(text):
        return text
    return "".join(f"<U+{ord(char):04X}>" if is_hidden(char) else char for char in text)


@lru_cache(maxsize=4096)
def fold(text: str) -> str:
    """The text for comparison: compatibility forms unified, hidden characters dropped, look-alikes latinised, lower
    case.

    Words in a script of their own stay as they are apart from letters that imitate Latin ones inside a mixed word.
    """
    if text.isascii():
        return text.lower()
    plain = unicodedata.normalize("NFKC", "".join(char for char in text if not is_hidden(char))).lower()
    return re.sub(r"\w+", lambda match: _latinise(match.group()), plain)


def _latinise(word: str) -> str:
    if word.isascii():
        return word
    mapped = word.translate(_HOMOGLYPHS)
    return mapped if mapped.isascii() else word


def mixes_scripts(text: str) -> bool:
    """Whether one word mixes Latin letters with look-alikes of another script."""
    if text.isascii():
        return False
    for word in re.findall(r"\w+", unicodedata.normalize("NFKC", text).lower()):
        has_latin = any("a" <= char <= "z" for char in word)
        if has_latin and not word.isascii() and word.translate(_HOMOGLYPHS).isascii():
            return True
    return False


@lru_cache(maxsize=8192)
def words(text: str) -> tuple[str, ...]:
    """Lower-case words of a text; identifiers are split at underscores and camel case."""
    if "_" in text or not text.islower():
        text = _CAMEL.sub(" ", text)
    return tuple(_WORD.findall(fold(text)))


_STOP = frozenset(
    """a an and are as at be but by can do does for from has have i if in into is it its me my of on or our so
 that the their them then there this to was we were what when which who will with would you your please just not no all
 any about also help need want would like could should i'm it's using use""".split()
)


def _stem(word: str) -> str:
    for suffix in ("ations", "ation", "ings", "ing", "ies", "ied", "es", "ed", "s"):
        if len(word) - len(suffix) >= 4 and word.endswith(suffix):
            return word[: -len(suffix)] + ("y" if suffix in ("ies", "ied") else "")
    return word[:-1] if len(word) > 4 and word.endswith("e") else word


@lru_cache(maxsize=65_536)
def _root(word: str) -> str:
    """The first five letters of a stem, so that 'medicine' and 'medication' meet; words with digits stay whole."""
    base = _stem(word)
    return base[:5] if base.isalpha() else base


@lru_cache(maxsize=4096)
def content_words(text: str) -> frozenset[str]:
    """The roots of a text's words without the function words; numbers count as words."""
    return frozenset(_root(word) for word in words(text) if word not in _STOP and len(word) > 1)


def stem(word: str) -> str:
    """The root under which `content_words` files a word."""
    return _root(word)


def cut(text: str, limit: int) -> str:
    """The first and last part of a text of more than `limit` characters, with a visible mark between them."""
    if len(text) <= limit:
        return text
    head = limit * 2 // 3
    return f"{text[:head]} [... {len(text) - limit} characters cut ...] {text[head - limit :]}"
