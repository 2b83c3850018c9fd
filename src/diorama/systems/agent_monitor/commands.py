"""The verbs of `diorama agent-monitor`. Each parses, calls the library and prints; heavy imports wait until they
run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from diorama.console import Common, emit, note
from diorama.errors import InputError

app = App(
    name="agent-monitor",
    help="Reads each action an agent proposes, stops the unsafe ones, queues the doubtful for people.",
    result_action="return_value",
)
queue = App(name="queue", help="Held actions: list, show, approve, deny.", result_action="return_value")
app.command(queue)

STATE = Path(".agent-monitor")
COMMON = Common()
POLICY = Path("policy.yaml")


def _state(common: Common) -> Path:
    return common.folder(str(STATE))


def _gate(policy_path: Path | None, common: Common, name: str) -> Any:
    from diorama.systems.agent_monitor.audit import AuditLog
    from diorama.systems.agent_monitor.pipeline import Gate, Monitor
    from diorama.systems.agent_monitor.policy import Policy, load_policy
    from diorama.systems.agent_monitor.review import ReviewQueue

    policy = load_policy(policy_path) if policy_path else Policy()
    folder = _state(common)
    log = AuditLog(folder / f"{name}.jsonl", policy=policy.hash)
    return Gate(Monitor.from_policy(policy), log, ReviewQueue(folder / "queue.sqlite", capacity=policy.budgets.queue))


@app.command
def init(*command: str, policy: Path = POLICY, common: Common = COMMON) -> int:
    """Write a commented policy; after `--` an MCP server's command, whose tools are then listed in it.

    policy: the file to write; an existing one is never overwritten.
    """
    from diorama.systems.agent_monitor.starter import list_tools, write_policy

    tools = list_tools(command) if command else []
    if common.dry_run:
        note(f"would write {policy} for {len(tools)} tools")
        return 0
    write_policy(policy, tools)
    emit(
        {"policy": str(policy), "tools": [tool["name"] for tool in tools]},
        f"wrote {policy} ({len(tools)} tools); read it before you use it",
        common,
    )
    return 0


@app.command
def mcp(
    *command: str,
    policy: Path | None = None,
    http: str | None = None,
    port: int = 8808,
    task: str = "",
    refusal: Literal["result", "error"] = "result",
    common: Common = COMMON,
) -> int:
    """Stand in front of an MCP server: over stdio (its command after `--`) or, with --http URL, over streamable HTTP.

    task: what the agent was asked, if known; without it only rules and injected instructions are judged.
    refusal: how a blocked call is answered: a result with the error flag, or a JSON-RPC error.
    """
    if bool(http) == bool(command):
        raise InputError(
            "Give either a server command after `--` or --http URL; the proxy stands in front of exactly one server."
        )
    if http:
        from diorama.systems.agent_monitor.http_proxy import build_app, check_address, serve

        check_address(http)
        gate = _gate(policy, common, "mcp")
        site = build_app(gate, http, task=task, refusal=refusal)
        note(f"agent-monitor: http://127.0.0.1:{port}/mcp -> {http}")
        serve(site, port=port)
        note(f"agent-monitor: log head {gate.log.close()}")
        return 0
    import asyncio

    from diorama.systems.agent_monitor.mcp_proxy import serve_stdio
    from diorama.systems.agent_monitor.rpc import RpcGuard

    gate = _gate(policy, common, "mcp")
    code = asyncio.run(serve_stdio(RpcGuard(gate, "mcp-stdio", task, refusal), command))
    note(f"agent-monitor: log head {gate.log.close()}")
    return 0 if code == 0 else 1


@app.command
def chat(*, upstream: str, policy: Path | None = None, port: int = 8809, common: Common = COMMON) -> int:
    """Stand in front of an OpenAI-compatible server: tool calls in its replies are judged, streamed or not."""
    from diorama.systems.agent_monitor.chat_proxy import build_app
    from diorama.systems.agent_monitor.http_proxy import check_address, serve

    check_address(upstream)
    gate = _gate(policy, common, "chat")
    site = build_app(gate, upstream)
    note(f"agent-monitor: http://127.0.0.1:{port}/v1 -> {upstream}")
    serve(site, port=port)
    note(f"agent-monitor: log head {gate.log.close()}")
    return 0


@app.command
def replay(file: Path, *, policy: Path | None = None, common: Common = COMMON) -> int:
    """Judge the steps of recorded runs, each from what came before it; numbers follow where labels are present."""
    from diorama.systems.agent_monitor.formats import read_runs
    from diorama.systems.agent_monitor.pipeline import Monitor
    from diorama.systems.agent_monitor.policy import Policy, load_policy
    from diorama.systems.agent_monitor.replay import replay_runs, summary_of

    runs = read_runs(file)
    monitor = Monitor.from_policy(load_policy(policy) if policy else Policy())
    done = []
    for run, judged in replay_runs(monitor, runs):
        done.append((run, judged))
        for item in judged:
            row = item.as_row()
            if common.json:
                print(json.dumps(row, ensure_ascii=False))
            elif row["decision"] != "allow":
                print(
                    f"{row['run']}  step {row['step']}  {row['decision']}  {row['score']:.1f}  "
                    f"{'; '.join(row['reasons'])[:160]}"
                )
    summary = summary_of(done)
    print(json.dumps(summary, ensure_ascii=False) if common.json else _summary_text(summary))
    return 0


def _summary_text(summary: dict[str, Any]) -> str:
    rows = [
        f"{summary['runs']} runs, {summary['steps']} steps: "
        + ", ".join(f"{count} {name}" for name, count in summary["decisions"].items())
    ]
    for part in ("per_run", "per_action"):
        if part in summary:
            numbers = summary[part]
            rows += [f"{part.replace('_', ' ')} ({numbers['n']}, {numbers['unsafe']} unsafe)"]
            rows += [
                f"  {name:24} {value['mean']:.3f}  [{value['low']:.3f}, {value['high']:.3f}]"
                for name, value in numbers.items()
                if isinstance(value, dict) and None not in value.values()
            ]
    return "\n".join(rows)


@app.command
def run(action: str = "-", *, task: str = "", policy: Path | None = None, common: Common = COMMON) -> int:
    """Judge one action: JSON {"tool", "arguments", "thought"?, "task"?, "messages"?} as the argument or on stdin (-).

    The exit code is 0 for allow and 1 for anything else.
    """
    import asyncio

    from diorama.systems.agent_monitor.pipeline import Monitor
    from diorama.systems.agent_monitor.policy import Policy, load_policy
    from diorama.systems.agent_monitor.single import step_of

    step = step_of(sys.stdin.buffer.read() if action == "-" else action, task)
    verdict = asyncio.run(Monitor.from_policy(load_policy(policy) if policy else Policy()).judge(step))
    result = verdict.as_dict()
    emit(
        result,
        "\n  ".join((f"{verdict.decision}  score {verdict.score:.1f}  {verdict.severity}", *verdict.reasons)),
        common,
    )
    return 0 if verdict.is_allowed else 1


@app.command
def verify(log: Path, *, head: str | None = None, common: Common = COMMON) -> int:
    """Check a log's hash chain; --head HASH also notices a log that lost its end. Prints the head."""
    from diorama.systems.agent_monitor.audit import verify as check_log

    check = check_log(log, expected_head=head)
    text = (
        f"{check.records} records hold, head {check.head}"
        if check.holds
        else f"line {check.bad_line}: {check.problem}; {check.records} records hold before it"
    )
    emit(
        {
            "holds": check.holds,
            "records": check.records,
            "head": check.head,
            "bad_line": check.bad_line,
            "problem": check.problem,
        },
        text,
        common,
    )
    return 0 if check.holds else 1


def _queue(common: Common) -> Any:
    from diorama.systems.agent_monitor.review import ReviewQueue

    path = _state(common) / "queue.sqlite"
    if not path.exists():
        raise InputError(f"There is no queue at {path}. Pass --out with the folder of the monitor's state.")
    return ReviewQueue(path)


@queue.command(name="list")
def list_held(*, every: Annotated[bool, Parameter(name="--all")] = False, common: Common = COMMON) -> int:
    """Held actions, worst first; --all shows the decided ones too."""
    items = _queue(common).all() if every else _queue(common).pending()
    text = "\n".join(
        f"{i.ticket}  {i.state:9} {i.severity:8} {i.score:5.1f}  {i.run}  {i.tool}  {i.reasons[:80]}" for i in items
    )
    emit({"items": [item.__dict__ for item in items]}, text or "nothing is held", common)
    return 0


@queue.command
def show(ticket: str, *, reviewer: str = "cli", common: Common = COMMON) -> int:
    """One held action in full; it is reserved for you for two minutes."""
    from diorama.systems.agent_monitor.review import LEASE_SECONDS

    held = _queue(common)
    item = held.show(ticket)
    if item.state == "pending":
        held.lease(item.ticket, reviewer, LEASE_SECONDS)
    emit(item.__dict__, _item_text(item), common)
    return 0


def _item_text(item: Any) -> str:
    from datetime import datetime

    rows = {key: value for key, value in item.__dict__.items() if value not in ("", 0.0)}
    for key in rows.keys() & {"created", "expires", "lease_until"}:
        rows[key] = datetime.fromtimestamp(rows[key]).isoformat(" ", "seconds")
    return "\n".join(f"{key:12} {value}" for key, value in rows.items())


@queue.command
def approve(
    ticket: str, *, digest: str | None = None, reviewer: str = "cli", why: str = "", common: Common = COMMON
) -> int:
    """Let a held action run, once, exactly as shown."""
    item = _queue(common).decide(ticket, True, reviewer, digest=digest, note=why)
    emit(item.__dict__, f"{item.ticket} {item.state}", common)
    return 0


@queue.command
def deny(ticket: str, *, reviewer: str = "cli", why: str = "", common: Common = COMMON) -> int:
    """Refuse a held action."""
    item = _queue(common).decide(ticket, False, reviewer, note=why)
    emit(item.__dict__, f"{item.ticket} {item.state}", common)
    return 0


@app.command
def page(*, port: int = 8810, common: Common = COMMON) -> int:
    """The review queue as a page on this machine; the address it prints holds its key."""
    from diorama.systems.agent_monitor.http_proxy import serve
    from diorama.systems.agent_monitor.review_page import build_page

    site, key = build_page(_queue(common))
    note(f"agent-monitor: http://127.0.0.1:{port}/?key={key}")
    serve(site, port=port)
    return 0


@app.command
def train(*recordings: Path, common: Common = COMMON) -> int:
    """Train a ranker by the shipped recipe: the tool world, and any labelled recordings named."""
    import time

    from diorama.systems.agent_monitor.card import write_ranker
    from diorama.systems.agent_monitor.recipe import recording_samples, train_shipped

    folder = common.folder("out/agent_monitor")
    if common.dry_run:
        note(f"would train on the tool world and {len(recordings)} recordings into {folder}")
        return 0
    start = time.monotonic()
    ranker = train_shipped(recording_samples(recordings))
    report = write_ranker(ranker, folder, sources=[path.name for path in recordings], seconds=time.monotonic() - start)
    emit(report, f"wrote {folder}", common)
    return 0


@app.command
def evaluate(*recordings: Path, ranker: Path | None = None, common: Common = COMMON) -> int:
    """Score labelled recordings (or, with none, the tool world) with each part of the monitor."""
    from diorama.systems.agent_monitor.evaluate import evaluate_recordings

    report = evaluate_recordings(list(recordings), ranker, seed=common.seed)
    text = "\n".join(
        f"{name:32} "
        + "  ".join(
            f"{key} {value['mean']:.3f}" for key, value in row.items() if isinstance(value, dict) and "mean" in value
        )
        for name, row in report.items()
    )
    emit(report, text, common)
    return 0


@app.command
def reproduce(*, quick: bool = False, seeds: int = 3, data: Path | None = None, common: Common = COMMON) -> int:
    """Re-run the claim in the tool world on unseen tasks and attacks; --out FOLDER gets the ROC curves as roc.svg.

    Parameters
    ----------
    quick
        The tool world alone, with fewer runs of it, in a minute.
    seeds
        Halves of the tool world that are trained on.
    data
        The folder of the public sets, which are then examined too.
    """
    from diorama.metrics.claims import report, seeds_from

    drawn = seeds_from(common.seed, seeds)
    if common.dry_run:
        emit({"quick": quick, "seeds": seeds, "data": data and str(data)}, "would re-run the claim", common)
        return 0
    from diorama.systems.agent_monitor.reproduce import reproduce as claim_of

    return report(claim_of(quick=quick, data=data, seeds=drawn, out=common.out), common)
