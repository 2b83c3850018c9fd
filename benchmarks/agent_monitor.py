"""Times the agent monitor: a full verdict with its log append, a proxy in front of a real MCP server, and a peer's
rules.

    python benchmarks/agent_monitor.py [--quick] [--json] [--peer-python PATH]

The peer is invariant-ai's local policy; where it cannot live in this environment, --peer-python names another Python
that has it, and the same actions are timed there in the same run, in turn.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from diorama.agents.transcript import Step
from diorama.metrics.claims import device_name, package_versions
from diorama.systems.agent_monitor.audit import AuditLog
from diorama.systems.agent_monitor.data import BOTH, world_runs
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


def verdict_times(gate: Gate, steps: list[Step]) -> list[tuple[float, float]]:
    """Milliseconds from submitting each step to its answer, log append included: on the clock, and of processor time,
    which says what a verdict costs on a machine that is busy with other things."""

    async def run() -> list[tuple[float, float]]:
        found = []
        for step in steps:
            start, used = time.perf_counter(), time.process_time()
            await gate.submit(step)
            found.append(((time.perf_counter() - start) * 1000, (time.process_time() - used) * 1000))
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


class Peer:
    """The peer's rules in another Python, kept running so that only its verdicts are timed."""

    def __init__(self, python: str, steps: list[Step]):
        self._messages = json.dumps([peer_messages(step) for step in steps]) + "\n"
        self._process = subprocess.Popen([python, "-c", PEER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def times(self) -> list[float]:
        """Milliseconds of one verdict for each step."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(self._messages)
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(10)


def peer_messages(step: Step) -> list[dict[str, object]]:
    """A step as the peer reads it: the task, and one tool call."""
    call = {"name": step.action.tool, "arguments": step.action.parsed()}
    return [
        {"role": "user", "content": step.task},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "type": "function", "function": call}]},
    ]


def time_verdicts(
    folder: Path, steps: list[Step], repeats: int, peer: Peer | None
) -> tuple[dict[str, list[list[float]]], list[list[float]]]:
    """Milliseconds of every verdict, per turn: ours by kind (full, fsync, rules, and full in processor time), and the
    peer's, taken in turn."""
    full = Policy(budgets=BUDGETS)
    kinds = (
        ("full", full, False),
        ("fsync", full, True),
        ("rules", Policy(budgets=BUDGETS, ranker=False, provenance=False), False),
    )
    ours: dict[str, list[list[float]]] = {name: [] for name in (*(kind[0] for kind in kinds), "processor")}
    theirs = []
    for turn in range(repeats):
        for name, policy, fsync in kinds:
            log = AuditLog(folder / f"{name}{turn}.jsonl", policy=policy.hash, fsync=fsync)
            times = verdict_times(Gate(Monitor.from_policy(policy), log), steps)
            ours[name].append([clock for clock, _ in times])
            if name == "full":
                ours["processor"].append([used for _, used in times])
            log.close()
        if peer:
            theirs.append(peer.times())
    return ours, theirs


def time_proxy(folder: Path, turns: int, calls: int) -> tuple[float, float]:
    """Median milliseconds of one call on a real MCP server, direct and through the proxy, taken in turn."""
    script, policy = folder / "server.py", folder / "policy.yaml"
    script.write_text(SERVER)
    policy.write_text("budgets: {burst: 1000000, actions_per_minute: 1000000, tool_actions_per_minute: 1000000}\n")
    server = [sys.executable, str(script)]
    direct, proxied = [], []
    for turn in range(turns):
        state = ["--policy", str(policy), "--out", str(folder / f"state{turn}")]
        direct.append(statistics.median(mcp_times(server, calls)))
        proxied.append(statistics.median(mcp_times([sys.executable, "-c", PROXY, "mcp", *state, "--", *server], calls)))
    return statistics.median(direct), statistics.median(proxied)


def median_quantile(turns: list[list[float]], share: float) -> float:
    """The median over turns of each turn's quantile."""
    return statistics.median(quantile(values, share) for values in turns)


def measure(quick: bool, peer_python: str | None) -> dict[str, object]:
    """All rows, medians over repeats taken in turn."""
    repeats, seeds = (2, 1) if quick else (5, 4)
    runs = world_runs(BOTH, range(1, 1 + seeds))
    steps = [step for run in runs for step in run.transcript.steps()]
    peer = Peer(peer_python, steps) if peer_python else None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours, theirs = time_verdicts(folder, steps, repeats, peer)
        direct, proxied = time_proxy(folder, *((1, 30) if quick else (3, 200)))
    if peer:
        peer.close()
    rules = median_quantile(theirs, 0.5) if theirs else None
    full, fsync = ours["full"], ours["fsync"]
    rows = [
        row("full verdict without a model, log append, p50", median_quantile(full, 0.5), None, 1.0, ""),
        row("full verdict without a model, log append, p99", median_quantile(full, 0.99), None, 5.0, ""),
        row("the same in processor time, p50", median_quantile(ours["processor"], 0.5), None, 1.0, ""),
        row("the same in processor time, p99", median_quantile(ours["processor"], 0.99), None, 5.0, ""),
        row("the same with fsync, p99", median_quantile(fsync, 0.99), None, None, ""),
        row("rules only, p50", median_quantile(ours["rules"], 0.5), rules, None, "invariant-ai LocalPolicy.analyze"),
        row("one call on a real MCP server: through the proxy / direct", proxied, direct, None, "no proxy"),
    ]
    return {
        "system": "agent-monitor",
        "rows": rows,
        "machine": f"{device_name('cpu')}, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors",
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
