"""Records that keep a run as something else than chat messages: lists of steps, items of the Responses API, turns with
'from' and 'value', content blocks with tool use. Each becomes chat messages."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from diorama.agents.transcript import Message, argument_text, text_of

TASKS = (
    "task",
    "instruction",
    "user_instruction",
    "User Instruction",
    "user_task",
    "prompt",
    "query",
    "question",
    "goal",
    "request",
    "input",
)
LISTS = ("trajectory", "steps", "intermediate_steps", "actions", "trace", "events", "history")
ITEMS = ("items", "input", "output")
TOOLS = ("tool", "tool_name", "function", "action", "name", "command")
ARGUMENTS = ("tool_input", "arguments", "args", "action_input", "parameters", "params", "kwargs", "input")
OUTPUTS = ("observation", "output", "result", "tool_output", "response", "tool_result")
THOUGHTS = ("thought", "thoughts", "reasoning", "log")


def task_of(record: Mapping[str, Any]) -> str:
    """What a record says the agent was asked, under whichever of the usual names; '' if it does not say."""
    for holder in (record, record.get("case"), record.get("metadata")):
        if isinstance(holder, Mapping):
            for key in TASKS:
                if isinstance(holder.get(key), str) and holder[key].strip():
                    return str(holder[key])
    return ""


def messages_of_record(record: Mapping[str, Any]) -> list[Message] | None:
    """The chat messages of a record that has none under 'messages'; None if it is of no shape known here."""
    if isinstance(record.get("conversations"), list):
        return [message for turn in record["conversations"] for message in _turn(turn)]
    for key in ITEMS:
        items = record.get(key)
        if isinstance(items, list) and any(isinstance(item, Mapping) and "type" in item for item in items):
            return [message for item in items for message in _item(item)]
    for key in LISTS:
        if isinstance(record.get(key), list) and record[key]:
            task = task_of(record)
            start: list[Message] = [{"role": "user", "content": task}] if task else []
            return [*start, *(message for number, step in enumerate(record[key]) for message in _step(step, number))]
    return None


def open_blocks(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A message whose content is a list of blocks, with tool use as calls and tool results as messages of their own."""
    blocks = message.get("content")
    if not isinstance(blocks, list) or not any(
        isinstance(block, Mapping) and block.get("type") in ("tool_use", "tool_result") for block in blocks
    ):
        return [message]
    said: list[Any] = []
    calls: list[dict[str, Any]] = []
    results: list[Mapping[str, Any]] = []
    for block in blocks:
        kind = block.get("type") if isinstance(block, Mapping) else None
        if kind == "tool_use":
            calls.append(_call(block.get("name"), block.get("input"), block.get("id")))
        elif kind == "tool_result":
            results.append(_seen(block.get("content"), block.get("tool_use_id")))
        else:
            said.append(block)
    rest: dict[str, Any] = {**message, "content": text_of(said)}
    if calls:
        rest["tool_calls"] = calls
    return [*results, rest] if calls or rest["content"].strip() else results


def _first(step: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((step[name] for name in names if step.get(name) is not None), None)


def _call(tool: Any, arguments: Any, identity: Any) -> dict[str, Any]:
    text = argument_text(arguments)
    if isinstance(arguments, str) and not arguments.lstrip().startswith("{"):
        text = json.dumps({"input": arguments}, ensure_ascii=False)
    return {"id": str(identity or ""), "type": "function", "function": {"name": str(tool or ""), "arguments": text}}


def _seen(content: Any, identity: Any = "") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": str(identity or ""), "content": text_of(content)}


def _turn(turn: Any) -> Iterator[Message]:
    if not isinstance(turn, Mapping):
        raise TypeError("a turn is not an object")
    speaker, text = str(turn.get("from", turn.get("role"))), text_of(turn.get("value", turn.get("content")))
    if speaker == "function_call":
        called = json.loads(text)
        yield {"role": "assistant", "content": "", "tool_calls": [_call(called["name"], called.get("arguments"), "")]}
    else:
        roles = {"gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "tool_response": "tool"}
        yield {"role": roles.get(speaker, speaker), "content": text}


def _item(item: Any) -> Iterator[Message]:
    """One item of the Responses API."""
    if not isinstance(item, Mapping):
        raise TypeError("an item is not an object")
    kind = item.get("type", "message")
    if kind == "function_call":
        calls = [_call(item.get("name"), item.get("arguments"), item.get("call_id"))]
        yield {"role": "assistant", "content": "", "tool_calls": calls}
    elif kind == "function_call_output":
        yield _seen(item.get("output"), item.get("call_id"))
    elif kind == "message" or "role" in item:
        yield {"role": item.get("role", "assistant"), "content": item.get("content")}


def _step(step: Any, number: int) -> Iterator[Message]:
    """One step: {tool, arguments, observation}, or LangChain's pair of an action and what was observed."""
    if isinstance(step, (list, tuple)) and len(step) == 2 and isinstance(step[0], Mapping):
        step = {**step[0], "observation": step[1]}
    if not isinstance(step, Mapping):
        raise TypeError("a step is not an object")
    if "role" in step:
        yield step
        return
    inner = _first(step, TOOLS)
    held: Mapping[str, Any] = {**step, **inner} if isinstance(inner, Mapping) else step
    tool = next((held[name] for name in TOOLS if isinstance(held.get(name), str)), None)
    thought = text_of(_first(step, THOUGHTS))
    arguments = _first(held, ARGUMENTS)
    seen = _first(step, OUTPUTS)
    if isinstance(tool, str) and arguments is not None:
        yield {"role": "assistant", "content": thought, "tool_calls": [_call(tool, arguments, number)]}
    elif isinstance(tool, str):
        yield {"role": "assistant", "content": tool}
    elif thought:
        yield {"role": "assistant", "content": thought}
    elif seen is None:
        raise KeyError("a step with neither a tool nor an output")
    if seen is not None:
        yield _seen(seen, number)
