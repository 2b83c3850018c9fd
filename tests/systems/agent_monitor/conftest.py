"""Gates on temporary files, scripted stages and a real MCP file server for the tests of the agent monitor."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from diorama.agents.actions import Action
from diorama.agents.transcript import Step
from diorama.systems.agent_monitor.audit import AuditLog
from diorama.systems.agent_monitor.pipeline import Gate, Monitor
from diorama.systems.agent_monitor.policy import Policy
from diorama.systems.agent_monitor.review import ReviewQueue

SERVER = '''
import pathlib, sys
from mcp.server.mcpserver import MCPServer

root = pathlib.Path(sys.argv[1])
server = MCPServer("files")

@server.tool()
def read_file(path: str) -> str:
    """Read a text file."""
    return (root / path).read_text()

@server.tool()
def write_file(path: str, content: str) -> str:
    """Write a text file."""
    (root / path).write_text(content)
    return "written"

@server.tool()
def delete_file(path: str) -> str:
    """Delete a file."""
    (root / path).unlink()
    return "deleted"

if len(sys.argv) > 2:
    import uvicorn
    uvicorn.run(server.streamable_http_app(), host="127.0.0.1", port=int(sys.argv[2]), log_level="error")
else:
    server.run()
'''


@pytest.fixture
def make_gate(tmp_path: Path) -> Callable[..., Gate]:
    """A gate from a policy; stages=None keeps those of the policy without the ranker."""
    opened: list[tuple[AuditLog, ReviewQueue]] = []

    def make(policy: Policy | None = None, stages=None, **settings) -> Gate:
        policy = policy or Policy(ranker=False)
        log = AuditLog(tmp_path / f"log{len(opened)}.jsonl", policy=policy.hash)
        queue = ReviewQueue(tmp_path / "queue.sqlite", capacity=policy.budgets.queue)
        opened.append((log, queue))
        monitor = Monitor(policy, stages) if stages is not None else Monitor.from_policy(policy)
        return Gate(monitor, log, queue, poll_seconds=0.01, **settings)

    yield make
    for log, queue in opened:
        log.close()
        queue.close()


@pytest.fixture
def file_server(tmp_path: Path) -> tuple[list[str], Path]:
    """The command of a real MCP server for a folder, and the folder."""
    pytest.importorskip("mcp")
    script, root = tmp_path / "server.py", tmp_path / "served"
    root.mkdir()
    (root / "notes.txt").write_text("the tide turns at six")
    script.write_text(SERVER)
    return [sys.executable, str(script), str(root)], root


def step(
    tool: str = "read_file",
    task: str = "Read notes.txt",
    run: str = "r",
    number: int = 0,
    history=(),
    thought: str = "",
    **arguments,
) -> Step:
    """A step with the given arguments."""
    return Step(run, number, task, Action.of(tool, arguments or {"path": "notes.txt"}, thought=thought), tuple(history))
