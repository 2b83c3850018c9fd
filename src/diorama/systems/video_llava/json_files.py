"""JSON lists and JSON lines from users' disks as records that can name themselves in an error. Text is only parsed."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from diorama.errors import InputError
from diorama.media.content import existing_file
from diorama.media.writing import written_whole

T = TypeVar("T")
ABSENT = object()


@dataclass(frozen=True)
class Record:
    """One object of a file; `number` counts from 1 (the line, in JSON lines)."""

    file: str
    number: int
    values: Mapping[str, Any]

    @property
    def id(self) -> str:
        """Its "id" or "question_id" as text; its number where it has neither."""
        found = self.values.get("id", self.values.get("question_id"))
        return str(found) if isinstance(found, str | int) and not isinstance(found, bool) else str(self.number)

    def problem(self, field: str, what: str, advice: str) -> InputError:
        """An error that names file, item and field."""
        return InputError(f"{self.place(field)}: {what}. {advice}")

    def place(self, field: str) -> str:
        """File, item and field in words."""
        return f"{self.file}, item {self.number} (id {self.id}), field {field}"

    def value(self, field: str, advice: str = "Add it, or leave the item out.") -> Any:
        """A field that must be there."""
        found = self.values.get(field, ABSENT)
        if found is ABSENT:
            raise self.problem(field, f"it is absent; the item has {', '.join(self.values) or 'no fields'}", advice)
        return found

    def text(self, field: str) -> str:
        """A field that must hold text that is not blank."""
        return self.checked_text(self.value(field), field)

    def key(self, field: str) -> str:
        """A field that must hold an identifier, text or a whole number, as text."""
        found = self.value(field)
        if isinstance(found, int) and not isinstance(found, bool):
            return str(found)
        return self.checked_text(found, field)

    def checked_text(self, found: object, field: str) -> str:
        """`found` itself once it is known to be text that is not blank and can be written as UTF-8."""
        if not isinstance(found, str):
            raise self.problem(field, f"it holds {describe(found)}, not text", "Write it as a JSON string.")
        if not found.strip():
            raise self.problem(field, "it is blank", "Fill it in, or leave the item out.")
        try:
            found.encode("utf-8")
        except UnicodeEncodeError as error:
            raise self.problem(field, "it holds half of a surrogate pair, which is no character",
                               "Export the file as UTF-8.") from error
        return found


def read_records(path: Path | str) -> list[Record]:
    """The objects of a JSON list or of JSON lines; the content decides, not the suffix.

    Raises InputError for a file that is absent, empty, not UTF-8, not JSON, or holds anything but objects.
    """
    path = Path(path)
    text = _read_text(path)
    if text.lstrip().startswith("["):
        values = _parse(text, path.name)
        return [_record(path.name, number, value) for number, value in enumerate(_not_empty(values, path), 1)]
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if len(lines) > 1 and lines[0][1].strip() in ("{", "{}"):
        raise InputError(f"{path.name} is one JSON object over several lines; a list of items was expected. "
                         "Put the items in [ ], or one object on each line.")
    return [_record(path.name, number, _parse(line, f"{path.name}, line {number}"))
            for number, line in _not_empty(lines, path)]


def read_object(path: Path | str) -> dict[str, Any]:
    """The one JSON object that a file holds. Raises InputError as `read_records`, and for anything but an object."""
    path = Path(path)
    found = _parse(_read_text(path), path.name)
    if not isinstance(found, dict):
        raise InputError(f"{path.name} holds {describe(found)}, but an object with one entry a question was expected. "
                         "Pass the file as it was published.")
    if not found:
        raise InputError(f"{path.name} is an empty object, so there is nothing to read. Pass the whole file.")
    return found


def read_each(records: Iterable[Record], read: Callable[[Record], T]) -> list[T]:
    """`read` applied to every record; where some fail, the first error, told how many other items fail too."""
    results, failures = [], []
    for record in records:
        try:
            results.append(read(record))
        except InputError as error:
            failures.append(error)
    if len(failures) > 1:
        others = len(failures) - 1
        raise type(failures[0])(f"{failures[0]} {others} other item{'s have' if others > 1 else ' has'} "
                                "problems too.") from failures[0]
    if failures:
        raise failures[0]
    return results


def write_records(path: Path | str, values: Iterable[Mapping[str, Any]]) -> None:
    """A JSON list, or JSON lines where the suffix is .jsonl; the file is whole or as it was before."""
    path = Path(path)
    with written_whole(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="\n") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(value, ensure_ascii=False) + "\n" for value in values)
        else:
            file.write("[\n" + ",\n".join(json.dumps(value, ensure_ascii=False) for value in values) + "\n]\n")


def describe(found: object) -> str:
    """What a JSON value is, in a few words."""
    if found is None or isinstance(found, bool):
        return "null" if found is None else str(found).lower()
    if isinstance(found, str):
        return f"the text {found[:40]!r}"
    if isinstance(found, list | dict):
        return f"{'a list' if isinstance(found, list) else 'an object'} of {len(found)}"
    return f"the number {found}"


def _read_text(path: Path) -> str:
    data = existing_file(path, "a JSON list").read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        kind = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "another encoding or no text"
        raise InputError(f"{path.name} is not UTF-8 (byte {error.start}); it is {kind}. "
                         "Save it as UTF-8.") from error


def _parse(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{name} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}. "
                         "Pass a JSON list or one JSON object a line.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} cannot be parsed as JSON ({str(error)[:80]}). "
                         "Pass a JSON list or one JSON object a line.") from error


def _record(file: str, number: int, value: object) -> Record:
    if not isinstance(value, dict):
        raise InputError(f"{file}, item {number} is {describe(value)}, not an object with fields. "
                         "Pass a list of objects, or one object a line.")
    return Record(file, number, value)


def _not_empty(values: list[T], path: Path) -> list[T]:
    if not values:
        raise InputError(f"{path.name} is an empty list, so there is nothing to read. Pass a file with items.")
    return values
