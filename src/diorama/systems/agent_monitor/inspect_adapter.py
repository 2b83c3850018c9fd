"""To and from Inspect AI's approvers: a gate as an approver, an approver as a stage. Needs inspect_ai only when
used."""

import json
from collections.abc import Mapping
from typing import Any

from diorama.agents.actions import Action
from diorama.agents.transcript import Message, Step, text_of
from diorama.errors import MissingExtra
from diorama.systems.agent_monitor.pipeline import Gate, Refused
from diorama.systems.agent_monitor.records import Decision, Finding, Stage

_DECISIONS: dict[str, tuple[float | None, Decision | None]] = {
    "approve": (None, None),
    "modify": (0.0, "deny"),
    "reject": (0.0, "deny"),
    "escalate": (70.0, "hold"),
    "terminate": (0.0, "stop"),
}
"""A 'modify' would run other bytes than were judged, so it counts as a refusal of these."""


def messages_of(history: list[Any]) -> tuple[Message, ...]:
    """Inspect's chat messages as OpenAI-style ones."""
    found: list[Mapping[str, Any]] = []
    for message in history:
        kept: dict[str, Any] = {"role": message.role, "content": message.text}
        if getattr(message, "tool_calls", None):
            kept["tool_calls"] = [
                {"id": call.id, "function": {"name": call.function, "arguments": json.dumps(call.arguments)}}
                for call in message.tool_calls
            ]
        found.append(kept)
    return tuple(found)


def as_approver(gate: Gate, *, run: str = "inspect", task: str = "") -> Any:
    """The gate as an Inspect approver: allow -> approve, deny and hold-without-approval -> reject, stop ->
    terminate."""
    try:
        from inspect_ai.approval import Approval
    except ImportError:
        raise MissingExtra("inspect-ai", "eval", "An Inspect approver") from None
    count = 0

    async def approve(message: str, call: Any, view: Any, history: list[Any]) -> Any:
        nonlocal count
        messages = messages_of(history)
        asked = task or next((text_of(m.get("content")) for m in messages if m.get("role") == "user"), "")
        try:
            action = Action.of(call.function, dict(call.arguments), thought=message, call_id=call.id)
        except ValueError:
            action = Action(str(call.function), str(call.arguments), message)
        if getattr(call, "parse_error", None):
            action = Action(str(call.function), str(call.parse_error), message)
        release = await gate.submit(Step(run, count, asked, action, messages))
        count += 1
        try:
            release.take(action)
        except Refused as refused:
            return Approval(
                decision="terminate" if release.verdict.decision == "stop" else "reject", explanation=str(refused)
            )
        return Approval(decision="approve")

    return approve


def from_approver(name: str, approver: Any) -> Stage:
    """An Inspect approver as a stage of the monitor."""
    try:
        from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageTool, ChatMessageUser
        from inspect_ai.tool import ToolCall, ToolCallView
    except ImportError:
        raise MissingExtra("inspect-ai", "eval", "An Inspect approver") from None
    kinds = {"user": ChatMessageUser, "system": ChatMessageSystem, "tool": ChatMessageTool}

    async def judge(step: Step) -> Finding:
        call = ToolCall(id=step.action.call_id or "0", function=step.action.tool, arguments=step.action.parsed())
        history = [
            kinds.get(str(m.get("role")), ChatMessageAssistant)(content=text_of(m.get("content"))) for m in step.history
        ]
        found = await approver(step.action.thought, call, ToolCallView(), history)
        score, decision = _DECISIONS.get(found.decision, (0.0, "deny"))
        return Finding(
            name,
            score,
            decision,
            "unsafe" if decision else "none",
            (found.explanation or found.decision,) if decision else (),
        )

    return judge
