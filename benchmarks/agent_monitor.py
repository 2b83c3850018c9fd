"""Times the agent monitor: a full verdict with its log append, a proxy in front of a real MCP server, and a peer's
rules.

    python benchmarks/agent_monitor.py [--quick] [--json] [--peer-python PATH]

The peer is invariant-ai's local policy; where it cannot live in this environment, --peer-python names another Python
that
has it, and the same actions are timed there in the same run, in turn.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from diorama.metrics.claims import device_name, package_versions
from diorama.systems.agent_monitor.attacks import FAMILIES
from diorama.systems.agent_monitor.audit import AuditLog
from diorama.systems.agent_monitor.data import ALL_TEMPLATES, world_runs
from diorama.systems.agent_monitor.pipeline import Gate, Monitor
from diorama.systems.agent_monitor.policy import Budgets, Policy

BUDGETS = Budgets(actions_per_minute=1e9, burst=10**9, tool_actions_per_minute=1e9)

PEER = '''
import json, sys, time
from invariant.analyzer import LocalPolicy
policy = LocalPolicy.from_string("""
raise "dangerous command" if:
    (call: ToolCall)
    call is tool:run_command
    "rm -rf" in call.function.arguments.command
raise "mail to a stranger" if:
    (call: ToolCall)
    call is tool:send_email
    not call.function.arguments.subject == "Re:"
""")
for line in sys.stdin:
    times = []
    for messages in json.loads(line):
        start = time.perf_counter()
        policy.analyze(messages)
        times.append((time.perf_counter() - start) * 1000)
    print(json.dumps(times), flush=True)
'''

SERVER = '''
from mcp.server.mcpserver import MCPServer
server = MCPServer("echo")
@server.tool()
def echo(text: str) -> str:
    """Return the text."""
    return text
server.run()
'''
PROXY = "import sys; from diorama.systems.agent_monitor.commands import app; sys.exit(app(sys.argv[1:]) or 0)"


def verdict_times(gate: Gate, steps: list) -> list[float]:
    """Milliseconds from submitting each step to its answer, log append included."""

    async def run() -> list[float]:
        found = []
        for step in steps:
            start = time.perf_counter()
            await gate.submit(step)
            found.append((time.perf_counter() - start) * 1000)
        return found

    return asyncio.run(run())


def mcp_times(command: list[str], calls: int) -> list[float]:
    """Milliseconds of each call of a real client through a command."""
    from mcp import StdioServerParameters
    from mcp.client import Client
    from mcp.client.stdio import stdio_client

    async def run() -> list[float]:
        async with Client(stdio_client(StdioServerParameters(command=command[0], args=command[1:]))) as client:
            await client.call_tool("echo", {"text": "warm"})
            found = []
            for number in range(calls):
                start = time.perf_counter()
                await client.call_tool("echo", {"text": f"hello {number}"})
                found.append((time.perf_counter() - start) * 1000)
            return found

    return asyncio.run(run())


def quantile(values: list[float], share: float) -> float:
    """The value below which this share lies."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def row(what: str, ours: float, theirs: float | None, goal: float | None, peer: str) -> dict[str, object]:
    """One row of the result; ratio > 1 means ours is faster (against the peer, or against the goal where there is
    none)."""
    against = theirs if theirs is not None else goal
    return {
        "what": what,
        "ours": round(ours, 3),
        "theirs": None if theirs is None else round(theirs, 3),
        "unit": "ms",
        "ratio": round(against / ours, 3) if against else None,
        "goal": goal,
        "peer": peer,
    }


def measure(quick: bool, peer_python: str | None) -> dict[str, object]:
    """All rows, medians over repeats taken in turn."""
    repeats, seeds = (2, 1) if quick else (5, 4)
    steps = [
        step
        for run in world_runs(ALL_TEMPLATES, tuple(FAMILIES), range(1, 1 + seeds))
        for step in run.transcript.steps()
    ]
    ours: dict[str, list[list[float]]] = {"full": [], "fsync": [], "rules": []}
    peers: list[list[float]] = []
    peer = (
        subprocess.Popen([peer_python, "-c", PEER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if peer_python
        else None
    )
    messages = [
        [
            {"role": "user", "content": s.task},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": s.action.tool, "arguments": s.action.parsed()}}
                ],
            },
        ]
        for s in steps
    ]
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(repeats):
            for name, policy, fsync in (
                ("full", Policy(budgets=BUDGETS), False),
                ("fsync", Policy(budgets=BUDGETS), True),
                ("rules", Policy(budgets=BUDGETS, ranker=False, provenance=False), False),
            ):
                log = AuditLog(Path(folder) / f"{name}{turn}.jsonl", policy=policy.hash, fsync=fsync)
                ours[name].append(verdict_times(Gate(Monitor.from_policy(policy), log), steps))
                log.close()
            if peer and peer.stdin and peer.stdout:
                peer.stdin.write(json.dumps(messages) + "\n")
                peer.stdin.flush()
                peers.append(json.loads(peer.stdout.readline()))
        direct, proxied = [], []
        (Path(folder) / "server.py").write_text(SERVER)
        (Path(folder) / "policy.yaml").write_text(
            "budgets: {burst: 1000000, actions_per_minute: 1000000, tool_actions_per_minute: 1000000}\n"
        )
        server = [sys.executable, str(Path(folder) / "server.py")]
        for turn in range(1 if quick else 3):
            calls = 30 if quick else 200
            direct.append(statistics.median(mcp_times(server, calls)))
            proxied.append(
                statistics.median(
                    mcp_times(
                        [
                            sys.executable,
                            "-c",
                            PROXY,
                            "mcp",
                            "--policy",
                            str(Path(folder) / "policy.yaml"),
                            "--out",
                            str(Path(folder) / f"state{turn}"),
                            "--",
                            *server,
                        ],
                        calls,
                    )
                )
            )
    if peer and peer.stdin:
        peer.stdin.close()
        peer.wait(10)

    def median_of(lists: list[list[float]], share: float) -> float:
        return statistics.median(quantile(values, share) for values in lists)

    rows = [
        row("full verdict without a model, log append, p50", median_of(ours["full"], 0.5), None, 1.0, ""),
        row("full verdict without a model, log append, p99", median_of(ours["full"], 0.99), None, 5.0, ""),
        row("the same with fsync, p99", median_of(ours["fsync"], 0.99), None, None, ""),
        row(
            "rules only, p50",
            median_of(ours["rules"], 0.5),
            median_of(peers, 0.5) if peers else None,
            None,
            "invariant-ai LocalPolicy.analyze",
        ),
        row(
            "one call on a real MCP server: through the proxy / direct",
            statistics.median(proxied),
            statistics.median(direct),
            None,
            "no proxy",
        ),
    ]
    return {
        "system": "agent-monitor",
        "rows": rows,
        "machine": device_name("cpu"),
        "versions": dict(package_versions()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peer-python", default=None)
    arguments = parser.parse_args()
    result = measure(arguments.quick, arguments.peer_python)
    if arguments.json:
        print(json.dumps(result))
        return
    for line in result["rows"]:  # type: ignore[attr-defined]
        print("  ".join(f"{key} {value}" for key, value in line.items()))


if __name__ == "__main__":
    main()
