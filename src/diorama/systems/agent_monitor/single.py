"""One action from the command line as a step."""

from diorama.agents.actions import Action, parse_strict
from diorama.agents.transcript import Step, argument_text, text_of
from diorama.errors import InputError


def step_of(text: str | bytes, task: str = "") -> Step:
    """A step from JSON {"tool", "arguments", "thought"?, "task"?, "messages"?}; also OpenAI's {"function": {...}} form.

    Raises InputError when the text is no such object.
    """
    value = parse_strict(text)
    inner = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(inner, dict) or not isinstance(inner.get("tool", inner.get("name")), str):
        raise InputError('The action names no tool. Send {"tool": "...", "arguments": {...}}.')
    action = Action(
        str(inner.get("tool", inner.get("name"))), argument_text(inner.get("arguments")), text_of(value.get("thought"))
    )
    messages = value.get("messages") or []
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise InputError("The messages are no list of objects. Send OpenAI-style messages.")
    asked = (
        task
        or text_of(value.get("task"))
        or next((text_of(m.get("content")) for m in messages if m.get("role") == "user"), "")
    )
    return Step("single", 0, asked, action, tuple(messages))
