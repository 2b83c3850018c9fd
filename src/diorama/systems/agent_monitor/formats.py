"""Recorded runs as people have them on disk, read into one `Transcript`: the shape of each record decides how.

Keys that would give a label away (risk descriptions, categories of inserted actions) are never read into messages.
"""

import ast
import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from diorama.agents.actions import Action
from diorama.agents.transcript import Message, Transcript, calls_of, clean_text, text_of
from diorama.errors import InputError
from diorama.systems.agent_monitor.other_records import messages_of_record, open_blocks
from diorama.systems.agent_monitor.text_actions import is_plan, parse_text_actions


class FormatError(InputError):
    """A file holds no recorded runs of a shape that is known here."""


SHAPES = (
    "plain JSONL {id, task, messages, label?}, OpenAI chat JSON(L), Responses API items, Anthropic content blocks, "
    "AgentDojo runs, R-Judge / ASSEBench records, AutoGPT logs, MCP captures (JSON-RPC), Inspect logs, ASB tables, "
    "ToolEmu runs and other lists of steps {tool, arguments, observation}"
)


def read_runs(path: str | Path) -> list[Transcript]:
    """Every run in a file, or in all JSON files below a folder. Raises FormatError naming the line that is no run."""
    path = Path(path)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix in (".json", ".jsonl"))
        found = [run for file in files for run in read_runs(file)]
        if not found:
            raise FormatError(f"{path} holds no JSON files with runs. Known shapes: {SHAPES}.")
        return found
    if path.suffix == ".csv":
        return list(_asb_table(path))
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise FormatError(f"There is no file {path}. Name a recording: {SHAPES}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path} cannot be read as UTF-8 text ({error}). Known shapes: {SHAPES}.") from None
    records = _records(text, path)
    captured = [_rpc(record) for record in records]
    if any(captured) and all(captured):
        return _mcp_capture([message for message in captured if message], path.stem)
    if records and all(isinstance(record, dict) and "role" in record for record in records):
        return [_plain({"messages": records, "id": path.stem}, path.stem)]
    found = []
    for number, record in enumerate(records):
        try:
            found += _runs_of(record, f"{path.stem}-{number}", path)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise FormatError(
                f"Record {number + 1} of {path.name} is no recorded run ({error}). Known shapes: {SHAPES}."
            ) from None
    if not found:
        raise FormatError(f"{path.name} holds no recorded run. Known shapes: {SHAPES}.")
    return found


def _records(text: str, path: Path) -> list[Any]:
    try:
        value = json.loads(text)
        return value if isinstance(value, list) else [value]
    except ValueError:
        pass
    except RecursionError:
        raise FormatError(f"{path.name} is nested too deeply to be a recorded run. Known shapes: {SHAPES}.") from None
    records = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                records.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise FormatError(
                    f"Line {number} of {path.name} is not JSON ({error}). Write one JSON value a line."
                ) from None
    return records


def _runs_of(record: Any, name: str, path: Path) -> list[Transcript]:
    if not isinstance(record, dict):
        raise TypeError(f"it is a {type(record).__name__}")
    if "contents" in record:
        return [_turns(record, name, path.stem)]
    if "samples" in record and isinstance(record["samples"], list):
        return [_inspect_sample(sample, name) for sample in record["samples"]]
    if "messages" in record:
        return [
            _agentdojo(record, name)
            if "user_task_id" in record and "injection_task_id" in record
            else _plain(record, name)
        ]
    if record and all(
        isinstance(attempts, dict) and all(isinstance(steps, dict) for steps in attempts.values())
        for attempts in record.values()
    ):
        return list(_autogpt(record, path))
    messages = messages_of_record(record)
    if messages is None:
        raise ValueError(f"its keys are {', '.join(map(str, list(record)[:8])) or 'none'}")
    return [_plain({**record, "messages": messages}, name)]


def _label(value: Any) -> int | None:
    if value is None or isinstance(value, (bool, int)):
        return None if value is None else int(bool(value))
    names = {"safe": 0, "benign": 0, "0": 0, "unsafe": 1, "malicious": 1, "harmful": 1, "attack": 1, "1": 1}
    if isinstance(value, str) and value.lower() in names:
        return names[value.lower()]
    raise ValueError(f"the label {value!r} is neither 0 (safe) nor 1 (unsafe)")


def first_user_text(messages: Iterable[Message]) -> str:
    """The first thing a user said."""
    return next((text_of(m.get("content")) for m in messages if m.get("role") in ("user", "human")), "")


_ROLES = {
    "human": "user",
    "agent": "assistant",
    "ai": "assistant",
    "environment": "tool",
    "function": "tool",
    "observation": "tool",
    "developer": "system",
}


def _opened(messages: Iterable[Any]) -> Iterator[Mapping[str, Any]]:
    for message in messages:
        if not isinstance(message, Mapping):
            raise TypeError("a message is not an object")
        yield from open_blocks(message)


def _clean(messages: Iterable[Any]) -> tuple[Message, ...]:
    cleaned = []
    for message in _opened(messages):
        role = _ROLES.get(str(message.get("role")), str(message.get("role")))
        kept: dict[str, Any] = {"role": role, "content": clean_text(text_of(message.get("content")))}
        for key in ("tool_calls", "function_call", "tool_call_id", "name"):
            if message.get(key):
                kept[key] = message[key]
        if role == "assistant" and not calls_of(kept):
            actions = parse_text_actions(kept["content"], "") if kept["content"].strip() else []
            if actions and actions[0].tool != "answer":
                kept["tool_calls"] = _calls(actions)
        cleaned.append(kept)
    return tuple(cleaned)


def _calls(actions: list[Action]) -> list[dict[str, Any]]:
    return [
        {"id": a.call_id, "type": "function", "function": {"name": a.tool, "arguments": a.arguments}} for a in actions
    ]


def _plain(record: Mapping[str, Any], name: str) -> Transcript:
    messages = _clean(record["messages"])
    task = text_of(record.get("task")) or first_user_text(messages)
    steps = {int(key): int(bool(value)) for key, value in (record.get("step_labels") or {}).items()}
    return Transcript(
        str(record.get("id", name)),
        task,
        messages,
        _label(record.get("label")),
        steps,
        str(record.get("group", "")),
        "plain",
    )


def _agentdojo(record: Mapping[str, Any], name: str) -> Transcript:
    messages = _clean(record["messages"])
    attacked = record.get("injection_task_id") not in (None, "", "none")
    security = record.get("security")
    label = None if security is None else int(attacked and bool(security))
    run = f"{record.get('suite_name', '')}-{record['user_task_id']}-{record.get('injection_task_id') or 'none'}"
    return Transcript(
        run,
        first_user_text(messages),
        messages,
        label,
        {},
        f"{record.get('suite_name', '')}-{record['user_task_id']}",
        "agentdojo",
    )


_BLANK = re.compile(r"(?i)you have used the attacker tool[^.;]*[.;]?|you have achieved the attacker goal[^.;]*[.;]?")
"""What a simulated tool says about itself, which would give the label away."""


_INNER = re.compile(r"(?i)\s*at step \d+, you need to\b")
"""How one framework reads its own plan back to its agent, in the user's place."""
_MARK = re.compile(r"\[Observation\]\s*:?\s*")


def _said_and_seen(text: str) -> tuple[str, str]:
    """An agent's text and the observation that was recorded in it, without what a simulated tool says of itself."""
    said, *seen = _MARK.split(text, maxsplit=1)
    return clean_text(said), clean_text(_BLANK.sub("", seen[0])) if seen else ""


def _agent_turn(turn: Mapping[str, Any]) -> list[Message]:
    """The messages of one agent turn {thought?, action?, content?}: what it said or called, then what it observed."""
    thought, observed = _said_and_seen(text_of(turn.get("thought")))
    text, also = _said_and_seen(text_of(turn.get("action") or turn.get("content")))
    found: list[Message] = []
    if is_plan(text) or (is_plan(thought) and not text.strip()):
        found.append({"role": "assistant", "content": "", "reasoning_content": thought or text})
    elif text.strip():
        calls = _calls(parse_text_actions(text, thought))
        found.append({"role": "assistant", "content": thought, "tool_calls": calls})
    elif thought.strip():
        found.append({"role": "assistant", "content": thought})
    if observed or also:
        found.append({"role": "tool", "content": "\n".join(part for part in (observed, also) if part)})
    return found


def _turns(record: Mapping[str, Any], name: str, source: str) -> Transcript:
    messages: list[Message] = []
    if record.get("profile"):
        messages.append({"role": "system", "content": str(record["profile"])})
    for turns in record["contents"]:
        for turn in [turns] if isinstance(turns, Mapping) else turns:
            role = _ROLES.get(str(turn.get("role")), str(turn.get("role")))
            text = clean_text(text_of(turn.get("content")))
            if role == "assistant":
                messages += _agent_turn(turn)
            elif text:
                messages.append({"role": "system" if role == "user" and _INNER.match(text) else role, "content": text})
    spoken = [message for message in messages if message["role"] == "assistant"]
    if spoken and not any(message["content"] or message.get("tool_calls") for message in spoken):
        plan = messages.index(spoken[-1])  # a run that is nothing but a plan is judged by the plan
        messages[plan] = {"role": "assistant", "content": spoken[-1]["reasoning_content"]}
    task = first_user_text(messages)
    return Transcript(
        f"{source}-{record.get('id', name)}", task, tuple(messages), _label(record.get("label")), {}, task[:200], source
    )


def _autogpt(log: Mapping[str, Any], path: Path) -> Iterator[Transcript]:
    beside = path.with_name("challenges.json")
    tasks = json.loads(beside.read_text("utf-8")) if beside.exists() else {}
    for challenge, attempts in log.items():
        task = str(tasks.get(challenge, {}).get("task", challenge))
        for attempt, steps in attempts.items():
            messages: list[Message] = [{"role": "user", "content": task}]
            labels: dict[int, int] = {}
            for message in steps.values():
                if "content" not in message:
                    raise KeyError("a step without content")
                for action in (actions := parse_text_actions(text_of(message["content"]))):
                    labels[len(labels)] = int("command" in message)
                    assert action
                messages.append({"role": "assistant", "content": actions[0].thought, "tool_calls": _calls(actions)})
            yield Transcript(
                f"{challenge}|{attempt}", task, tuple(messages), int(any(labels.values())), labels, challenge, "autogpt"
            )


def _rpc(record: Any) -> dict[str, Any] | None:
    """The JSON-RPC message of a captured line: the line itself, or what it holds under one of its keys."""
    if not isinstance(record, dict):
        return None
    for held in (record, *record.values()):
        if isinstance(held, str) and held.lstrip().startswith("{") and '"jsonrpc"' in held:
            held = json.loads(held)
        if isinstance(held, dict) and held.get("jsonrpc") == "2.0":
            return held
    return None


def _mcp_capture(records: list[dict[str, Any]], name: str) -> list[Transcript]:
    messages: list[Message] = []
    for message in records:
        if message.get("method") == "tools/call":
            given = message.get("params") or {}
            call = Action(
                str(given.get("name") or ""),
                json.dumps(given.get("arguments") or {}, ensure_ascii=False),
                call_id=str(message.get("id")),
            )
            messages.append(
                {"role": "assistant", "content": "", "tool_calls": [{**_calls([call])[0], "id": call.call_id}]}
            )
        elif isinstance(result := message.get("result"), dict) and "content" in result:
            messages.append(
                {"role": "tool", "content": text_of(result["content"]), "tool_call_id": str(message.get("id"))}
            )
    return [Transcript(name, "", tuple(messages), None, {}, name, "mcp")]


def _inspect_sample(sample: Mapping[str, Any], name: str) -> Transcript:
    messages = _clean(sample["messages"])
    task = sample["input"] if isinstance(sample.get("input"), str) else first_user_text(messages)
    label = (sample.get("metadata") or {}).get("label")
    return Transcript(
        f"{name}-{sample.get('id', '')}", task, messages, _label(label), {}, str(sample.get("id", "")), "inspect"
    )


def _asb_table(path: Path) -> Iterator[Transcript]:
    csv.field_size_limit(10**8)
    with path.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file)):
            if "messages" not in row:
                raise FormatError(f"{path.name} has no column 'messages'. Known shapes: {SHAPES}.")
            try:
                recorded = ast.literal_eval(row["messages"])
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                raise FormatError(
                    f"Row {number + 1} of {path.name} is no list of messages. Save it as a Python literal or JSON."
                ) from None
            turns = [
                {
                    "role": "agent" if m["role"] == "assistant" else m["role"],
                    "content": m.get("content"),
                    "thought": m.get("thinking"),
                    "action": m.get("content"),
                }
                for m in recorded
            ]
            profile = " ".join(str(m.get("content")) for m in recorded if m["role"] == "system")
            turns = [turn for turn in turns if turn["role"] != "system"]
            run = _turns(
                {
                    "contents": [turns],
                    "profile": profile,
                    "id": number,
                    "label": int(row.get("Attack Successful") == "1"),
                },
                str(number),
                path.stem,
            )
            yield Transcript(
                run.id, run.task, run.messages, run.label, {}, f"{row.get('Agent Name')}|{run.task}", "asb"
            )
