"""Which files the words of a request mean: "a.png", "the first image", "the clip", "both".

`mark` replaces each such phrase by a marker, ⟦0⟧ for the first file or ⟦0,1⟧ for two of them, so that the rules of
the grammar need not know how people name files. ⟦0|this photo⟧ also keeps the words, which the model then hears again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from diorama.errors import InputError
from diorama.studio.plan import FileKind, GivenFile

MARKER = r"⟦[\d,]+(?:\|[^⟧]*)?⟧"
IMAGE_NOUNS = "image|picture|photo|photograph|drawing|screenshot"
VIDEO_NOUNS = "clip|video|movie|film|recording|animation|gif"
NOUN = f"(?P<noun>{IMAGE_NOUNS}|{VIDEO_NOUNS}|file|one)"
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
NUMERALS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
ORDINAL = f"(?P<ordinal>{'|'.join(ORDINALS)}|last)"
THE = r"(?:the|this|that|my|our)"

NUMBERED = re.compile(rf"\b(?:{THE}\s+)?(?P<noun>{IMAGE_NOUNS}|{VIDEO_NOUNS}|file)\s+(?:number\s+|#)?(?P<number>\d+)\b",
                      re.IGNORECASE)
NTH = re.compile(rf"\b(?:{THE}\s+)?{ORDINAL}\s+{NOUN}\b", re.IGNORECASE)
NTH_ALONE = re.compile(rf"(?<=\bin )the\s+{ORDINAL}(?=\s*(?:[?.,;:]|$|and\b|than\b))", re.IGNORECASE)
SEVERAL = re.compile(
    rf"\b(?:both(?:\s+of)?(?:\s+(?:the|these|those))?|(?:the|these|those|all|all\s+the)(?:\s+(?P<count>{'|'.join(NUMERALS)}))?"
    rf"|(?P<each>each|every|all)(?:\s+of)?(?:\s+(?:the|these|those))?)\s+"
    rf"(?P<noun>(?:{IMAGE_NOUNS}|{VIDEO_NOUNS}|file)s|(?<=each )(?:{IMAGE_NOUNS}|{VIDEO_NOUNS}|file)"
    rf"|(?<=every )(?:{IMAGE_NOUNS}|{VIDEO_NOUNS}|file))\b",
    re.IGNORECASE)
ALL_ALONE = re.compile(r"(?<=\bin )(?:both|each|all)(?:\s+of\s+(?:them|these|those))?(?=\s*(?:[?.,;:]|$|and\b))"
                       r"|(?<=\bof )(?:the\s+(?:two|three|four|five)|these|those|them)(?=\s+(?:has|shows?|contains?|"
                       r"holds?|is|does|have)\b|\s*[?.,;:]|$)|(?<=\bbetween )(?:the\s+two|them|these)\b"
                       r"|(?<=\bcompare )(?:the\s+two|them|these|both)\b", re.IGNORECASE)
SINGLE = re.compile(rf"\b(?:{THE}|a|an)\s+(?P<noun>{IMAGE_NOUNS}|{VIDEO_NOUNS}|file)\b", re.IGNORECASE)
JOINED = re.compile(rf"({MARKER})\s*,?\s*(?:and|or|versus|vs\.?|with|to|,)\s+(?:in\s+)?(?=({MARKER}))")


def mark(text: str, files: Sequence[GivenFile]) -> str:
    """`text` with every mention of files replaced by a marker.

    Raises InputError for a mention that fits none of the files, or fits several where one is meant.
    """
    text = text.replace("⟦", "(").replace("⟧", ")")
    text = _mark_names(text, files)
    text = NUMBERED.sub(lambda m: _nth(m, int(m["number"]) - 1, files), text)
    for pattern in (NTH, NTH_ALONE):
        text = pattern.sub(lambda m: _nth(m, _position(m["ordinal"]), files), text)
    text = SEVERAL.sub(lambda m: _several(m, files), text)
    text = ALL_ALONE.sub(lambda m: marker(range(len(files))), text)
    text = SINGLE.sub(lambda m: _single(m, files), text)
    return _join(text)


def marker(indices: Sequence[int]) -> str:
    """The marker of some files."""
    return f"⟦{','.join(str(i) for i in indices)}⟧"


def marked(text: str) -> tuple[int, ...]:
    """The files whose markers are in the text, in order, each once."""
    found = [int(i) for group in re.findall(r"⟦([\d,]+)", text) for i in group.split(",")]
    return tuple(dict.fromkeys(found))


def in_words(text: str, files: Sequence[GivenFile]) -> str:
    """The text with its markers as words that a model understands: "the image", "the clip"."""

    def told(match: re.Match[str]) -> str:
        _, _, said = match.group().strip("⟦⟧").partition("|")
        if said:
            return said
        indices = marked(match.group())
        noun = "image" if files[indices[0]].kind == "image" else "clip"
        return f"the {noun}" if len(indices) == 1 else f"the {noun}s"

    return re.sub(MARKER, told, text)


def listing(files: Sequence[GivenFile]) -> str:
    """The names of the files in a row."""
    return ", ".join(file.name for file in files)


def _mark_names(text: str, files: Sequence[GivenFile]) -> str:
    """Full paths first, then names, the longest first, so that `a.png` is not found inside `extra.png`."""
    spellings: dict[str, list[int]] = {}
    for index, file in enumerate(files):
        for spelling in dict.fromkeys((str(file.path), file.name)):
            spellings.setdefault(spelling.lower(), []).append(index)
    for spelling in sorted(spellings, key=len, reverse=True):
        named = re.compile(rf"(?<![\w./-])[\"'`]?{re.escape(spelling)}[\"'`]?(?![\w/-]|\.\w)", re.IGNORECASE)
        noun = rf"(?:the\s+)?(?:(?:{IMAGE_NOUNS}|{VIDEO_NOUNS}|file)\s+)?"
        if named.search(text) and len(spellings[spelling]) > 1:
            raise InputError(f"{len(spellings[spelling])} of the files are called {spelling!r}, so the name does not "
                             "say which is meant. Write 'the first file', 'the second file' or the path.")
        here = marker(spellings[spelling])
        text = re.sub(rf"\b{noun}(?={named.pattern})", "", text, flags=re.IGNORECASE)
        text = named.sub(lambda m, here=here: here, text)  # type: ignore[misc]
    unknown = re.search(r"(?<![\w⟦])[\w-]+\.(?:png|jpe?g|webp|gif|bmp|tiff?|avif|mp4|mov|webm|mkv|avi)\b", text,
                        re.IGNORECASE)
    if unknown:
        raise InputError(f"The request names {unknown.group()}, which is not among the files given "
                         f"({listing(files) or 'none'}). Add it to the line, or name one of these.")
    return text


def _position(word: str) -> int:
    return -1 if word.lower() == "last" else ORDINALS.index(word.lower())


def _kind(noun: str) -> FileKind | None:
    singular = noun.lower().rstrip("s")
    if re.fullmatch(IMAGE_NOUNS, singular):
        return "image"
    return "video" if re.fullmatch(VIDEO_NOUNS, singular) else None


def _of_kind(noun: str, files: Sequence[GivenFile]) -> list[int]:
    """The files that a noun can mean; where no file is of its kind, a person may still call the only one so."""
    kind = _kind(noun)
    found = [i for i, file in enumerate(files) if kind is None or file.kind == kind]
    return found or ([0] if len(files) == 1 else [])


def _nth(match: re.Match[str], position: int, files: Sequence[GivenFile]) -> str:
    noun = match.groupdict().get("noun") or "file"
    among = _of_kind(noun, files)
    if position >= len(among) or not among:
        raise InputError(f"The request speaks of {match.group()!r}, and {len(among) or 'none'} of the files "
                         f"({listing(files)}) {'is' if len(among) == 1 else 'are'} of that kind. "
                         "Name a file that was given, or add it.")
    return marker([among[position]])


def _several(match: re.Match[str], files: Sequence[GivenFile]) -> str:
    among = _of_kind(match["noun"], files)
    said = match.group().lower()
    count = NUMERALS.index(match["count"].lower()) + 2 if match["count"] else (2 if said.startswith("both") else None)
    if not among or (count is not None and count != len(among)):
        raise InputError(f"The request speaks of {match.group()!r}, and {len(among) or 'none'} of the files "
                         f"({listing(files)}) {'is' if len(among) == 1 else 'are'} of that kind. "
                         "Give as many files as the request speaks of.")
    return marker(among)


def _single(match: re.Match[str], files: Sequence[GivenFile]) -> str:
    if match.group().lower().startswith(("a ", "an ")):
        return match.group()
    among = _of_kind(match["noun"], files)
    if len(among) != 1:
        problem = f"{len(among)} of the files fit" if among else "none of the files is one"
        raise InputError(f"The request speaks of {match.group()!r}, and {problem} ({listing(files)}). "
                         "Write a file's name, or for instance 'the second image'.")
    return f"⟦{among[0]}|{match.group()}⟧"


def _join(text: str) -> str:
    """Neighboring markers as one: "in ⟦0⟧ and in ⟦1⟧" becomes "in ⟦0,1⟧"."""
    while match := JOINED.search(text):
        both = tuple(dict.fromkeys(marked(match[1]) + marked(match[2])))
        text = text[:match.start()] + marker(both) + text[match.end() + len(match[2]):]
    return text
