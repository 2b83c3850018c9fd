"""Conversations about images and clips as users have them on disk: LLaVA-style JSON beside a folder of media.

An item is {"id", "image": path or list, "video": path or list, "conversations": [{"from": "human" | "gpt",
"value": text}, ...]}; the human text names its media with <image> and <video>. Start with `read_conversations`.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diorama.errors import InputError, MediaError
from diorama.systems.video_llava.json_files import Record, describe, read_each, read_records, write_records
from diorama.systems.video_llava.processing import MARKER_PATTERN, MARKER_WORDS, Turn
from diorama.systems.video_llava.splice import Kind

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif")
CLIPS_FIRST: tuple[Kind, ...] = ("video", "image")
"""Order of media whose markers are left out, as the released code needs it."""


@dataclass(frozen=True)
class MediaFile:
    """An image or a clip that an item names, and whether the file is there."""

    kind: Kind
    path: Path
    exists: bool = True


@dataclass(frozen=True)
class Conversation:
    """Turns about media, which stand in the order of their markers; no marker at all leaves them to the prompt."""

    id: str
    turns: tuple[Turn, ...]
    media: tuple[MediaFile, ...] = ()

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of the media, in order."""
        return tuple(item.kind for item in self.media)

    @property
    def missing(self) -> tuple[Path, ...]:
        """The media files that are not there."""
        return tuple(item.path for item in self.media if not item.exists)


@dataclass(frozen=True)
class ConversationFile:
    """What a file holds: conversations whose media are all there, and those that lack some."""

    path: Path
    usable: tuple[Conversation, ...]
    incomplete: tuple[Conversation, ...]

    def summary(self) -> str:
        """One sentence: how many items can be used, of which kind, and which media are missing."""
        counts = dict.fromkeys(("image", "video", "image and video", "text"), 0)
        for item in self.usable:
            counts[" and ".join(sorted(set(item.kinds))) or "text"] += 1
        parts = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
        text = f"{self.path.name}: {len(self.usable):,} conversations ({parts})"
        if not self.incomplete:
            return f"{text}."
        missing = list(dict.fromkeys(path for item in self.incomplete for path in item.missing))
        return (f"{text}; {len(self.incomplete):,} left out because {len(missing):,} media "
                f"file{'s are' if len(missing) > 1 else ' is'} missing, such as {missing[0]}.")


def read_conversations(path: Path | str, media: Path | str) -> ConversationFile:
    """Read LLaVA-style JSON or JSON lines; the paths in it are relative to the folder `media`.

    - A human turn opens each exchange; a leading "gpt" turn is dropped (the ShareGPT part of LLaVA-1.5 has some, and
      the released code drops them). Every question needs its answer.
    - Markers at the end of a question move to its front, one newline after them, as in the released code; others stay.
      Media without any marker are put before the first question, clips first. Otherwise counts must agree.
    - "id" may be absent (the item's number is taken) and may repeat. Clips are found by `find_video`.
    - Missing media never stop the reading and are never replaced by another item: such items are in `incomplete`.

    Raises InputError that names file, item, field, for broken items and for paths that leave `media`; MediaError when
    no item can be used.
    """
    path, folder = Path(path), media_folder(media)
    conversations = read_each(read_records(path), lambda record: _conversation(record, folder))
    usable = tuple(item for item in conversations if not item.missing)
    incomplete = tuple(item for item in conversations if item.missing)
    if not usable:
        raise MediaError(f"None of the {len(incomplete):,} items of {path.name} has its media in {folder}; the first "
                         f"one missing is {incomplete[0].missing[0]}. Pass the folder that the paths start from.")
    return ConversationFile(path, usable, incomplete)


def write_conversations(path: Path | str, conversations: Iterable[Conversation], media: Path | str) -> None:
    """Write LLaVA-style JSON (JSON lines for the suffix .jsonl) with media paths relative to the folder `media`.

    Markers that the turns leave out are written before the first question. The file is whole or as it was before.
    Raises InputError for media outside the folder, markers that do not fit the media, or nothing to write.
    """
    folder = Path(media).absolute()
    values = [_item(conversation, folder) for conversation in conversations]
    if not values:
        raise InputError("There are no conversations to write. Pass at least one.")
    write_records(path, values)


def inside(folder: Path, name: str) -> Path:
    """`name`, relative to `folder` or absolute, as a path in `folder`.

    Only the spelling is judged: links that the user placed in the folder are followed. Raises InputError for a path
    that leaves it.
    """
    base = os.path.normpath(folder.absolute())
    path = os.path.normpath(Path(base, name))
    if not path.startswith(base.rstrip(os.sep) + os.sep) or "\0" in name:
        raise InputError(f"the path {name!r} leaves the media folder {folder}. "
                         "Use paths inside the folder, or pass the folder that holds them all.")
    return folder / Path(path).relative_to(base)


def find_media(record: Record, kind: Kind, folder: Path, *names: str) -> MediaFile:
    """`find_image` or `find_video` for a field of a record; an error names the field."""
    try:
        return find_video(folder, *names) if kind == "video" else find_image(folder, names[0])
    except InputError as error:
        raise InputError(f"{record.place(kind)}: {error}") from error


def find_image(folder: Path, name: str) -> MediaFile:
    """The image `name` in `folder`, there or not. Raises InputError for a path that leaves the folder."""
    path = inside(folder, name)
    return MediaFile("image", path, _is_file(path))


def find_video(folder: Path, *names: str) -> MediaFile:
    """The first clip that exists among `names` in `folder`, there or not.

    A name is tried as it is, then with .mp4 .avi .mov .mkv .webm .gif (and in capitals) added, then with a video
    suffix of its own exchanged for these. Raises InputError for a path that leaves the folder.
    """
    for name in names:
        for path in _spellings(inside(folder, name)):
            if _is_file(path):
                return MediaFile("video", path)
    return MediaFile("video", inside(folder, names[0]), exists=False)


def _spellings(path: Path) -> Iterator[Path]:
    yield path
    stems = [path.name]
    if path.suffix.lower() in VIDEO_SUFFIXES:
        stems.append(path.stem)
    for stem in stems:
        for suffix in VIDEO_SUFFIXES:
            yield path.with_name(stem + suffix)
            yield path.with_name(stem + suffix.upper())


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def media_folder(media: Path | str) -> Path:
    """`media` as a Path, once it is known to be a folder; MediaError otherwise."""
    folder = Path(media)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise MediaError(f"The media folder {folder} {what}. Pass the folder that the paths in the file start from.")
    return folder


def _conversation(record: Record, folder: Path) -> Conversation:
    turns = _turns(record)
    names = {kind: _names(record, kind) for kind in MARKER_WORDS.values()}
    marked = [MARKER_WORDS[word] for turn in turns for word in MARKER_PATTERN.findall(turn.question)]
    order = marked or [kind for kind in CLIPS_FIRST for _ in names[kind]]
    for kind, given in names.items():
        if order.count(kind) != len(given):
            raise record.problem(
                "conversations", f"the questions hold {order.count(kind)} <{kind}>, but the field {kind} names "
                f"{len(given)} file{'s' * (len(given) != 1)}", f"Write one <{kind}> for each {kind}.")
    waiting = {kind: iter(given) for kind, given in names.items()}
    media = tuple(find_media(record, kind, folder, next(waiting[kind])) for kind in order)
    return Conversation(record.id, turns, media)


def _names(record: Record, kind: Kind) -> list[str]:
    found = record.values.get(kind)
    if found is None:
        return []
    if isinstance(found, list):
        if not found:
            raise record.problem(kind, "it is an empty list", f"Name the {kind}, or leave the field out.")
        return [record.checked_text(name, f"{kind}[{number}]") for number, name in enumerate(found)]
    return [record.checked_text(found, kind)]


def _turns(record: Record) -> tuple[Turn, ...]:
    entries = record.value("conversations")
    if not isinstance(entries, list) or not entries:
        raise record.problem("conversations", f"it holds {describe(entries)}, not a list of turns",
                             'Write [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}].')
    spoken = [_spoken(record, entry, number) for number, entry in enumerate(entries)]
    first = 1 if spoken[0][0] == "gpt" else 0
    for number, (speaker, text) in enumerate(spoken[first:], first):
        expected = "human" if (number - first) % 2 == 0 else "gpt"
        if speaker != expected:
            raise record.problem(f"conversations[{number}].from", f"{speaker} speaks where {expected} should",
                                 "Let human and gpt take turns, human first.")
        if speaker == "gpt" and MARKER_PATTERN.search(text):
            raise record.problem(f"conversations[{number}].value", "an answer holds a media marker",
                                 "Write <image> and <video> in human turns only.")
    if (len(spoken) - first) % 2 or len(spoken) == first:
        raise record.problem("conversations", "the last question has no answer", "Add the gpt turn that answers it.")
    pairs = zip(spoken[first::2], spoken[first + 1::2], strict=True)
    turns = tuple(Turn(_markers_first(question), answer) for (_, question), (_, answer) in pairs)
    for number, turn in enumerate(turns):
        if not MARKER_PATTERN.sub("", turn.question).strip():
            raise record.problem(f"conversations[{first + 2 * number}].value", "the question holds nothing but markers",
                                 "Write what is asked after them.")
    return turns


def _spoken(record: Record, entry: object, number: int) -> tuple[str, str]:
    where = f"conversations[{number}]"
    if not isinstance(entry, dict):
        raise record.problem(where, f"it holds {describe(entry)}, not a turn", 'Write {"from": ..., "value": ...}.')
    for field in ("from", "value"):
        if field not in entry:
            raise record.problem(f"{where}.{field}", "it is absent", 'A turn is {"from": ..., "value": ...}.')
    if entry["from"] not in ("human", "gpt"):
        raise record.problem(f"{where}.from", f"it holds {describe(entry['from'])}", 'Write "human" or "gpt".')
    return entry["from"], record.checked_text(entry["value"], f"{where}.value")


def _markers_first(question: str) -> str:
    """Markers that close a question are moved to its front; markers inside it or at its front stay."""
    words: list[str] = []
    body = question.strip()
    while (match := _last_marker(body)) is not None:
        words.insert(0, match)
        body = body[:-len(match)].rstrip()
    if not words or not body:
        return question.strip()
    return "".join(words) + "\n" + body


def _last_marker(text: str) -> str | None:
    return next((word for word in MARKER_WORDS if text.endswith(word)), None)


def _item(conversation: Conversation, folder: Path) -> dict[str, Any]:
    names: dict[str, list[str]] = {}
    for item in conversation.media:
        try:
            path = inside(folder, str(item.path.absolute()))
        except InputError as error:
            raise InputError(f"Conversation {conversation.id}: {error}") from error
        names.setdefault(item.kind, []).append(path.relative_to(folder).as_posix())
    return {"id": conversation.id,
            **{kind: paths[0] if len(paths) == 1 else paths for kind, paths in names.items()},
            "conversations": [spoken for turn in _marked(conversation) for spoken in (
                {"from": "human", "value": turn.question}, {"from": "gpt", "value": turn.answer})]}


def _marked(conversation: Conversation) -> Sequence[Turn]:
    turns = conversation.turns
    if not turns or any(turn.answer is None for turn in turns):
        raise InputError(f"Conversation {conversation.id} has a question without an answer, or no turns, which no "
                         "training can use. Give every question its answer.")
    marked = [MARKER_WORDS[word] for turn in turns for word in MARKER_PATTERN.findall(turn.question)]
    if marked == list(conversation.kinds):
        return turns
    if marked:
        raise InputError(f"Conversation {conversation.id} marks {', '.join(marked)}, but its media are "
                         f"{', '.join(conversation.kinds) or 'none'}. Write one marker for each file, in order.")
    lead = "".join(f"<{kind}>" for kind in conversation.kinds) + "\n"
    return [Turn(lead + turns[0].question, turns[0].answer), *turns[1:]]
