"""Actions that agents write as plain text: AutoGPT's JSON, `Tool{...}`, ReAct, fenced commands, `cmd` lines."""

import ast
import json
import re
from typing import Any

from diorama.agents.actions import Action
from diorama.agents.transcript import clean_text
from diorama.systems.agent_monitor.code import FENCE

_CALL = re.compile(r"^\s*(?:Action\s*:\s*)?([A-Za-z_][\w.\-/ ]{0,80}?)\s*:?\s*([{(\[].*)\Z", re.DOTALL)
_REACT = re.compile(
    r"(?:(?:^|\n)\s*Action\s*:|^)\s*([^\n:]+?)\s*\n\s*Action[ _]Input\s*:\s*(.*?)"
    r"(?=\n\s*(?:Observation|Thought|Action|Final Answer)\s*:|\Z)",
    re.DOTALL,
)
_PLAN = re.compile(r"""\[\s*\{\s*["']message["']\s*:.{0,1500}?["']tool_use["']\s*:""", re.DOTALL)
_TOUCH = re.compile(r"^\s*([A-Z][A-Za-z ]{1,30}?)\s*<([^<>\n]{1,200})>\s*$")
_ASB = re.compile(
    r"(?i)I will call the (\S+) with the params as (.*?)(?=;?\s*(?:I will call the|\[Observation\]|\Z))", re.DOTALL
)
_ANSWER = re.compile(r"(?is)^\s*(?:final answer|answer|finish|complete|response|think)\s*[:({\[]\s*(.*)\Z")
_TAG = re.compile(
    r"(?s)<(?:tool_call|function_call|function)(?:=([\w.-]+))?>\s*(.*?)\s*</(?:tool_call|function_call|function)>"
)


def parse_arguments(text: str) -> dict[str, Any]:
    """Arguments written as JSON, as a Python literal or as prose (then under the key `input`). Nothing is evaluated."""
    body = clean_text(text.strip())
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(body)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        if isinstance(value, dict):
            return {str(key): item for key, item in value.items()}
        if value is not None and not isinstance(value, str):
            return {"input": value}
    if body in ("None", "null", "", "{}"):
        return {}
    named = re.findall(r"(\w+)\s*=\s*(\"[^\"]*\"|'[^']*'|[^,()\s]+)", body.strip("()")) if body.startswith("(") else []
    return {key: value.strip("\"'") for key, value in named} if named else {"input": body.strip("{}()")}


def _made(tool: str, arguments: dict[str, Any], thought: str) -> Action:
    try:
        return Action.of(tool, arguments, thought=thought)
    except ValueError:
        return Action.of(tool, {"input": clean_text(str(arguments))}, thought=thought)


def parse_text_actions(text: str, thought: str = "") -> list[Action]:
    """The actions in an agent's text output; a text with none is one `answer`."""
    text = clean_text(text.strip())
    thought = clean_text(thought)
    found = _autogpt(text) or [
        _made(name.strip(), parse_arguments(body), thought) for name, body in _REACT.findall(text)
    ]
    if found:
        return found
    for name, body in _TAG.findall(text):
        value = parse_arguments(body)
        tool = name or str(value.get("name", "tool"))
        inner = value.get("arguments", value.get("parameters", value))
        found.append(_made(tool, inner if isinstance(inner, dict) else {"input": inner}, thought))
    found += [
        _made(name, parse_arguments(body), text.split("I will call", 1)[0] or thought)
        for name, body in _ASB.findall(text)
    ]
    if found:
        return found
    if _ANSWER.match(text):
        return [_made("answer", {"text": text}, thought)]
    match = _CALL.match(text)
    if (
        match
        and (match.group(2)[0] != "(" or match.group(2).rstrip().endswith(")"))
        and len(match.group(1).split()) <= 4
    ):
        return [_made(match.group(1).strip(), parse_arguments(match.group(2)), thought)]
    touch = _TOUCH.match(text)
    if touch:
        return [_made(touch.group(1).strip(), {"input": touch.group(2).strip()}, thought)]
    blocks = FENCE.findall(text)
    if blocks:
        lead = text.split("```", 1)[0].strip()
        tool = lead.split("\n")[-1].strip() if 0 < len(lead.split("\n")[-1].split()) <= 2 else (blocks[0][0] or "code")
        key = "code" if blocks[0][0].lower() in ("python", "py") else "command"
        return [_made(tool or "bash", {key: "\n".join(body for _, body in blocks)}, thought or lead)]
    return [_made("answer", {"text": text}, thought)]


def is_plan(text: str) -> bool:
    """Whether a text lays out which tools are to be used, [{"message": ..., "tool_use": [...]}], without using one."""
    return bool(_PLAN.search(text[:2000]))


def _autogpt(text: str) -> list[Action]:
    body = text.strip().removeprefix("```json").removeprefix("```").removesuffix("```").strip()
    if not body.startswith("{"):
        return []
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return []
    if not isinstance(value, dict):
        return []
    thoughts = value.get("thoughts")
    said = (
        "\n".join(str(item) for item in thoughts.values())
        if isinstance(thoughts, dict)
        else str(thoughts or value.get("thought") or "")
    )
    for holder in (value.get("command"), value.get("action"), value.get("function"), value):
        if isinstance(holder, dict):
            name = holder.get("name", holder.get("tool", holder.get("tool_name")))
            arguments = next(
                (holder[key] for key in ("args", "arguments", "parameters", "action_input", "input") if key in holder),
                None,
            )
            if isinstance(name, str):
                return [
                    _made(
                        name,
                        arguments if isinstance(arguments, dict) else {} if arguments is None else {"input": arguments},
                        said,
                    )
                ]
    if isinstance(value.get("action"), str):
        given = value.get("action_input", value.get("input"))
        return [
            _made(
                value["action"], given if isinstance(given, dict) else {} if given is None else {"input": given}, said
            )
        ]
    return []
