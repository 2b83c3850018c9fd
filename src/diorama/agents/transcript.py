"""What an agent has seen and done, as OpenAI-style messages, and the steps a gate would have judged on the way."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from diorama.agents.actions import Action, canonical_json, sha256

Message = Mapping[str, Any]
"""An OpenAI chat message: role (system, developer, user, assistant, tool), content, and for calls `tool_calls`."""


def text_of(content: Any) -> str:
    """The text of a message's content: a string, a list of parts, an object, or nothing."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(text_of(part) for part in content)
    if isinstance(content, Mapping):
        for key in ("text", "content", "input_text", "output_text"):
            if key in content and not isinstance(content[key], (int, float, bool)):
                return text_of(content[key])
        return json.dumps(content, ensure_ascii=False, default=str)
    return str(content)


@dataclass(frozen=True)
class Step:
    """One proposed action with everything known *before* it runs, and nothing from after.

    history holds the earlier messages, oldest first; description and files are the optional context of the paper's
    prompt (parts 7 and 12); agent_prompt is the prompt the agent was given for this step (part 10).
    """

    run: str
    number: int
    task: str
    action: Action
    history: tuple[Message, ...] = ()
    description: str = ""
    agent_prompt: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    time: float = 0.0

    def previous(self) -> tuple[str, str]:
        """The agent's last output and the last observation before this action, each '' where there is none."""
        said = seen = ""
        for message in reversed(self.history):
            role = message.get("role")
            if role in ("tool", "function") and not seen:
                seen = text_of(message.get("content"))
            if role == "assistant":
                said = describe_message(message)
                break
        return said, seen

    def without_thought(self) -> "Step":
        """The same step with the agent's own words about it removed."""
        return replace(self, action=replace(self.action, thought=""))

    def prompt_digest(self) -> str:
        """SHA-256 of the agent's prompt and history, for the log."""
        return sha256(
            canonical_json({"prompt": self.agent_prompt, "history": [describe_message(m) for m in self.history]})
        )


def describe_message(message: Message) -> str:
    """A message as one text, its tool calls included."""
    parts = [text_of(message.get("content"))]
    for call in calls_of(message):
        parts.append(f"{call.tool} {call.arguments}")
    return "\n".join(part for part in parts if part)


def calls_of(message: Message) -> list[Action]:
    """The tool calls of an assistant message, whatever their spelling (OpenAI, flat, AgentDojo, old function_call)."""
    thought = text_of(message.get("content"))
    found = []
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, Sequence) and not isinstance(calls, str) else ():
        if not isinstance(call, Mapping):
            found.append(Action("", json.dumps(call, default=str), thought))
            continue
        inner = call.get("function")
        if isinstance(inner, Mapping):
            name, arguments = inner.get("name"), inner.get("arguments")
        else:
            name = inner if isinstance(inner, str) else call.get("name")
            arguments = next((call[key] for key in ("args", "arguments", "input", "parameters") if key in call), None)
        found.append(Action(str(name or ""), argument_text(arguments), thought, str(call.get("id") or "")))
    old = message.get("function_call")
    if isinstance(old, Mapping):
        found.append(Action(str(old.get("name") or ""), argument_text(old.get("arguments")), thought))
    return found


def argument_text(arguments: Any) -> str:
    """Arguments as JSON text: a string is kept byte for byte, nothing becomes an empty object."""
    if arguments is None or arguments == "":
        return "{}"
    if isinstance(arguments, str):
        return arguments
    try:
        return json.dumps(arguments, ensure_ascii=False)
    except (TypeError, ValueError):
        return str(arguments)


@dataclass(frozen=True)
class Transcript:
    """A recorded run. label: 1 unsafe, 0 safe, None unknown; step_labels: the same for single steps, by number."""

    id: str
    task: str
    messages: tuple[Message, ...]
    label: int | None = None
    step_labels: Mapping[int, int] = field(default_factory=dict)
    group: str = ""
    source: str = ""

    def steps(self) -> Iterator[Step]:
        """Each proposed action with the messages before it. Several calls of one reply see the same history.

        A plain answer counts as the action `answer` while the run has called no tool yet: it is then all there is to
        judge; afterwards answers are reports, not actions.
        """
        number, has_called = 0, False
        for index, message in enumerate(self.messages):
            if message.get("role") != "assistant":
                continue
            actions = calls_of(message)
            if not actions and not has_called and text_of(message.get("content")).strip():
                actions = [Action.of("answer", {"text": clean_text(text_of(message.get("content")))})]
            else:
                has_called = has_called or bool(actions)
            for action in actions:
                yield Step(self.id, number, self.task, action, self.messages[:index])
                number += 1


def clean_text(text: str) -> str:
    """Text with lone surrogates replaced, so that it can be written as UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")
