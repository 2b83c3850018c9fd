"""Faults in front of every placement: whatever breaks, nothing is allowed by accident.

A placement puts a gate in front of a tool and says whether the tool ran (or, offline, whether it would have been
allowed to). Those named over HTTP and stdio are the whole proxies, with a real server behind them.
"""

import asyncio
import importlib.util
import io
import json
import os
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from diorama.agents.actions import Action
from diorama.agents.transcript import Step, Transcript
from diorama.systems.agent_monitor.chat_proxy import build_app as build_chat
from diorama.systems.agent_monitor.guard import Session, guarded
from diorama.systems.agent_monitor.http_proxy import build_app as build_http
from diorama.systems.agent_monitor.inspect_adapter import as_approver
from diorama.systems.agent_monitor.mcp_proxy import serve_stdio
from diorama.systems.agent_monitor.pipeline import Gate, Monitor
from diorama.systems.agent_monitor.policy import Judge, Policy
from diorama.systems.agent_monitor.replay import replay_runs
from diorama.systems.agent_monitor.rpc import RpcGuard

spec = importlib.util.spec_from_file_location("agent_monitor_faults", Path(__file__).with_name("faults.py"))
faults = importlib.util.module_from_spec(spec)
spec.loader.exec_module(faults)
FAULTS, GOOD, Model, judged_gate, verdict = faults.FAULTS, faults.GOOD, faults.Model, faults.judged_gate, faults.verdict
TASK = "Read notes.txt"
BODY = {"messages": [{"role": "user", "content": TASK}]}


@dataclass
class Place:
    """What a placement needs of the outside: a folder, and a server that records what reaches it."""

    folder: Path
    url: str
    bodies: list[bytes] = field(default_factory=list)
    reply: tuple[str, bytes] = ("application/json", b"{}")


@pytest.fixture
def place(tmp_path) -> Iterator[Place]:
    found = Place(tmp_path, "")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            found.bodies.append(self.rfile.read(int(self.headers["content-length"])))
            kind, content = found.reply
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}"
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


def _text(arguments):
    return arguments if isinstance(arguments, str) else json.dumps(arguments)


async def place_gate(gate: Gate, arguments, place: Place) -> bool:
    action = Action("read_file", _text(arguments))
    release = await gate.submit(Step("r", 0, TASK, action))
    try:
        release.take(action)
    except ValueError:
        return False
    return True


def place_guard_sync(gate: Gate, arguments, place: Place) -> bool:
    ran = []

    def read_file(**values):
        ran.append(values)

    try:
        guarded(Session(gate, TASK, "r"))(read_file)(**json.loads(_text(arguments)))
    except (ValueError, TypeError, RecursionError):
        pass
    return bool(ran)


async def place_guard_async(gate: Gate, arguments, place: Place) -> bool:
    ran = []

    async def read_file(**values):
        ran.append(values)

    try:
        await guarded(Session(gate, TASK, "r"), refusal="return")(read_file)(**json.loads(_text(arguments)))
    except (ValueError, TypeError, RecursionError):
        pass
    return bool(ran)


def _rpc(arguments) -> bytes:
    start = '{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "read_file", "arguments": '
    return f"{start}{_text(arguments)}}}}}".encode("utf-8", "surrogatepass")


SERVER = """
while read -r line; do
    printf '%s\\n' "$line" >> "$1"
    echo '{"jsonrpc": "2.0", "id": 1, "result": {"content": []}}'
done
"""


async def place_mcp_stdio(gate: Gate, arguments, place: Place) -> bool:
    """The stdio proxy in front of a server that keeps what it is sent and answers the call."""
    reader, writer = os.pipe()
    reached, sink = place.folder / "reached", io.BytesIO()
    reached.write_bytes(b"")
    feed = Thread(target=lambda: os.write(writer, _rpc(arguments) + b"\n"))
    feed.start()

    async def close_when_answered() -> None:
        while not (sink.getvalue() or reached.read_bytes()):
            await asyncio.sleep(0.005)
        feed.join()
        os.close(writer)

    with os.fdopen(reader, "rb") as source:
        closing = asyncio.ensure_future(close_when_answered())
        guard = RpcGuard(gate, "r", TASK)
        await asyncio.wait_for(
            serve_stdio(guard, ["sh", "-c", SERVER, "sh", str(reached)], source=source, sink=sink), 60
        )
        await closing
    return b"read_file" in reached.read_bytes()


async def _post(app, path: str, content: bytes) -> bytes:
    """One request to an app as it is served, its start and end included."""
    import httpx2

    async with app.router.lifespan_context(app):
        async with httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app), base_url="http://127.0.0.1", verify=False
        ) as client:
            reply = await client.post(path, content=content, headers={"content-type": "application/json"})
            return reply.content


async def place_mcp_http(gate: Gate, arguments, place: Place) -> bool:
    place.reply = ("application/json", b'{"jsonrpc": "2.0", "id": 1, "result": {"content": []}}')
    answer = await _post(build_http(gate, f"{place.url}/mcp", task=TASK), "/mcp", _rpc(arguments))
    assert answer
    return any(b"read_file" in body for body in place.bodies)


def _choice(message) -> bytes:
    return json.dumps({"choices": [{"index": 0, "finish_reason": "tool_calls", "message": message}]}).encode()


async def place_chat(gate: Gate, arguments, place: Place) -> bool:
    call = {"id": "a", "type": "function", "function": {"name": "read_file", "arguments": _text(arguments)}}
    place.reply = ("application/json", _choice({"role": "assistant", "content": None, "tool_calls": [call]}))
    answer = await _post(build_chat(gate, place.url), "/v1/chat/completions", json.dumps(BODY).encode())
    assert place.bodies
    return b"read_file" in answer


async def place_chat_stream(gate: Gate, arguments, place: Place) -> bool:
    text = _text(arguments)
    first = {"index": 0, "id": "a", "function": {"name": "read_file", "arguments": text[:7]}}
    deltas = [
        ({"role": "assistant", "tool_calls": [first]}, None),
        ({"tool_calls": [{"index": 0, "function": {"arguments": text[7:]}}]}, None),
        ({}, "tool_calls"),
    ]
    events = [
        b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}).encode()
        for delta, reason in deltas
    ]
    place.reply = ("text/event-stream", b"\n\n".join([*events, b"data: [DONE]", b""]))
    answer = await _post(build_chat(gate, place.url), "/v1/chat/completions", json.dumps(BODY).encode())
    assert place.bodies
    return b"read_file" in answer


def place_replay(gate: Gate, arguments, place: Place) -> bool:
    call = {"id": "a", "type": "function", "function": {"name": "read_file", "arguments": _text(arguments)}}
    messages = (*BODY["messages"], {"role": "assistant", "content": "", "tool_calls": [call]})
    judged = [item for _, found in replay_runs(gate.monitor, [Transcript("r", TASK, messages)]) for item in found]
    assert len(judged) == 1
    return judged[0].verdict.is_allowed


async def place_inspect(gate: Gate, arguments, place: Place) -> bool:
    call = types.SimpleNamespace(id="1", function="read_file", arguments={}, parse_error=None)
    try:
        call.arguments = json.loads(_text(arguments))
        assert isinstance(call.arguments, dict)
    except (ValueError, AssertionError):
        call.parse_error = _text(arguments)  # as Inspect reports arguments that are no object
    return (await as_approver(gate, run="r", task=TASK)("", call, None, [])).decision == "approve"


@pytest.fixture
def inspect_approval(monkeypatch):
    """Inspect's Approval, or a stand-in of its shape where Inspect is not installed."""
    if importlib.util.find_spec("inspect_ai") is None:
        module = types.ModuleType("inspect_ai.approval")
        module.Approval = types.SimpleNamespace
        monkeypatch.setitem(sys.modules, "inspect_ai", types.ModuleType("inspect_ai"))
        monkeypatch.setitem(sys.modules, "inspect_ai.approval", module)


PLACEMENTS = {
    "gate": place_gate,
    "decorator": place_guard_sync,
    "async decorator": place_guard_async,
    "mcp over stdio": place_mcp_stdio,
    "mcp over http": place_mcp_http,
    "chat": place_chat,
    "streamed chat": place_chat_stream,
    "replay": place_replay,
    "inspect": place_inspect,
}
PARSED = {"keys are repeated"}
"""Arguments that arrive as a Python dict hold no key twice."""
CANNOT_CARRY = {
    "decorator": PARSED,
    "async decorator": PARSED,
    "inspect": PARSED,
    "replay": faults.LOG | faults.RUN,
}
"""Faults that do not exist in a placement; a replay judges what was recorded, so it has no log and no budgets."""


def _run(name: str, gate: Gate, arguments, place: Place) -> bool:
    place.bodies.clear()
    found = PLACEMENTS[name](gate, arguments, place)
    return asyncio.run(found) if asyncio.iscoroutine(found) else found


def test_there_are_enough_faults():
    assert len(FAULTS) >= 40
    assert all(len(FAULTS.keys() - CANNOT_CARRY.get(name, set())) >= 40 for name in PLACEMENTS)


@pytest.mark.parametrize("name", PLACEMENTS)
def test_without_a_fault_the_action_runs(make_gate, place, inspect_approval, name):
    assert _run(name, make_gate(), GOOD, place)
    assert _run(name, judged_gate(make_gate, Model(verdict()), faults.PATIENT), GOOD, place)


@pytest.mark.parametrize("name", PLACEMENTS)
def test_no_fault_allows_anything(make_gate, place, inspect_approval, name):
    allowed = []
    for fault in FAULTS.keys() - CANNOT_CARRY.get(name, set()):
        gate, arguments = FAULTS[fault](make_gate)
        if _run(name, gate, arguments, place):
            allowed.append(fault)
    assert allowed == []


CALL = {"index": 0, "id": "a", "function": {"name": "read_file", "arguments": '{"path": "notes.txt"}'}}
BROKEN = {
    "no JSON": ("application/json", b"<html>read_file</html>"),
    "cut JSON": ("application/json", _choice({"tool_calls": [CALL]})[:-9]),
    "two values for a key": (
        "application/json",
        b'{"choices": [], "choices": [{"message": {"tool_calls": [{"function": {"name": "read_file"}}]}}]}',
    ),
    "a stream that ends inside a call": (
        "text/event-stream",
        b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"tool_calls": [CALL]}}]}).encode() + b"\n\n",
    ),
    "a stream of garbage": ("text/event-stream", b'data: {"choices": [{"delta": {"tool_calls": "read_file"\n\n'),
}


@pytest.mark.parametrize("reply", BROKEN)
def test_a_broken_reply_of_the_models_server_releases_no_call(make_gate, place, reply):
    place.reply = BROKEN[reply]
    answer = asyncio.run(_post(build_chat(make_gate(), place.url), "/v1/chat/completions", json.dumps(BODY).encode()))
    assert place.bodies and answer and b"read_file" not in answer


def test_a_server_that_is_gone_is_reported(make_gate):
    gone = "http://127.0.0.1:9"
    asked = asyncio.run(_post(build_chat(make_gate(), gone), "/v1/chat/completions", json.dumps(BODY).encode()))
    called = asyncio.run(_post(build_http(make_gate(), gone), "/mcp", _rpc(GOOD)))
    assert b"cannot be reached" in asked and b"cannot be reached" in called


def test_the_fail_open_switch_is_explicit_and_logged_as_critical(make_gate, place, caplog):
    policy = Policy(ranker=False, judge=Judge(timeout_seconds=60, on_error="allow"))
    gate = make_gate(policy)
    gate.monitor = Monitor.from_policy(policy, model=Model(ConnectionResetError("gone")))
    assert _run("gate", gate, GOOD, place)
    assert any(record.levelname == "CRITICAL" for record in caplog.records)
    assert gate.monitor.errors["judge"] == 1


def test_one_repair_is_tried(make_gate, place):
    model = Model("no json", verdict())
    assert _run("gate", judged_gate(make_gate, model, faults.PATIENT), GOOD, place)
    assert model.count == 2
