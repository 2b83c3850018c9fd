"""A gate as an Inspect approver and an Inspect approver as a stage; skipped where inspect_ai is not installed."""

import asyncio

import pytest

from diorama.agents.actions import Action
from diorama.agents.transcript import Step
from diorama.systems.agent_monitor.inspect_adapter import as_approver, from_approver
from diorama.systems.agent_monitor.policy import Policy, Tools

approval = pytest.importorskip("inspect_ai.approval")


def test_a_gate_is_an_approver(make_gate):
    from inspect_ai.model import ChatMessageUser
    from inspect_ai.tool import ToolCall, ToolCallView

    approve = as_approver(make_gate(Policy(ranker=False, tools=Tools(deny=("bad",)))))
    history = [ChatMessageUser(content="Read notes.txt")]

    async def ask(name):
        call = ToolCall(id="1", function=name, arguments={"path": "notes.txt"})
        return (await approve("", call, ToolCallView(), history)).decision

    async def play():
        return [await ask(name) for name in ("read_file", "bad", "bad", "bad")]

    assert asyncio.run(play()) == ["approve", "reject", "reject", "terminate"]


@pytest.mark.parametrize(
    ("decision", "ours"),
    [("approve", None), ("modify", "deny"), ("reject", "deny"), ("escalate", "hold"), ("terminate", "stop")],
)
def test_an_approver_is_a_stage(decision, ours):
    async def approver(message, call, view, history):
        return approval.Approval(decision=decision, explanation="because")

    finding = asyncio.run(from_approver("theirs", approver)(Step("r", 0, "t", Action.of("f", {"a": 1}))))
    assert finding.decision == ours
