"""One proposed action of an agent, held as the exact bytes that would be executed.

What is judged must be what runs, so an action keeps its arguments as the JSON text it arrived in. `parse_strict` is the
one reader of such text: it refuses everything two parsers could read differently (duplicate keys, NaN, lone
surrogates).
"""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn

from diorama.errors import InputError

MAX_DEPTH = 64


class ActionError(InputError):
    """A proposed action is not one tool name with one JSON object of arguments."""


def _refuse_constant(name: str) -> NoReturn:
    raise ActionError(
        f"The JSON holds {name}, which is not JSON and which parsers read differently. Send null or a number."
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ActionError(
                f"The JSON names the key {key!r} twice, so two readers may see two actions. Send each key once."
            )
        found[key] = value
    return found


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ActionError(f"The number {text[:20]} is too large for a double. Send it as a string.")
    return value


def _integer(text: str) -> int:
    if len(text) > 400:
        raise ActionError(f"A number of {len(text)} digits cannot be read safely. Send it as a string.")
    return int(text)


def parse_strict(text: str | bytes) -> Any:
    """The value of a JSON text that every parser reads the same way.

    Raises ActionError for invalid UTF-8, duplicate keys, NaN and Infinity, numbers out of range, lone surrogates,
    more than 64 levels of nesting, and whatever is no JSON at all.
    """
    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
    except UnicodeDecodeError as error:
        raise ActionError(f"The JSON is not UTF-8 (byte {error.start}). Send UTF-8.") from None
    try:
        value = json.loads(
            decoded, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_integer
        )
    except json.JSONDecodeError as error:
        raise ActionError(f"This is not JSON: {error.msg} at character {error.pos}. Send one JSON value.") from None
    except RecursionError:
        raise ActionError("The JSON is nested too deeply to be read. Flatten it.") from None
    _check_value(value, 0)
    return value


def _check_value(value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ActionError(f"The JSON is nested more than {MAX_DEPTH} levels deep. Flatten it.")
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise ActionError(
                "A string in the JSON holds half of a surrogate pair, which is no text. Send whole characters."
            ) from None
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_value(key, depth + 1)
            _check_value(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_value(item, depth + 1)


def canonical_json(value: Any) -> bytes:
    """The one UTF-8 spelling of a JSON value: sorted keys, no spaces, no NaN. Raises ActionError if it has none."""
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise ActionError(f"This value has no canonical JSON ({error}). Use plain JSON values.") from None


def sha256(data: bytes) -> str:
    """SHA-256 as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Action:
    """A tool call before it is executed.

    tool: the name as the agent wrote it. arguments: the exact JSON text of the arguments. thought: what the agent said
    beside it (never part of the digest). call_id: the protocol's own identifier, if there is one.
    """

    tool: str
    arguments: str
    thought: str = ""
    call_id: str = field(default="", compare=False)

    @classmethod
    def of(cls, tool: str, arguments: dict[str, Any], *, thought: str = "", call_id: str = "") -> "Action":
        """An action from values that are already parsed; the arguments become their canonical JSON."""
        return cls(tool, canonical_json(arguments).decode("utf-8"), thought, call_id)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the tool's name and the exact argument text: what an approval is bound to."""
        return sha256(canonical_json({"tool": self.tool, "arguments": self.arguments}))

    def parsed(self) -> dict[str, Any]:
        """The arguments as a dict. Raises ActionError if the text is not one strict JSON object."""
        if not self.tool.strip():
            raise ActionError("The action names no tool. Name the tool to call.")
        value = parse_strict(self.arguments)
        if not isinstance(value, dict):
            raise ActionError(f"The arguments are a JSON {type(value).__name__}, not an object. Send named arguments.")
        return value
