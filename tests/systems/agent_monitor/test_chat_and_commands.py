"""The chat proxy on a real HTTP stub, streamed and not; the verbs of the command line; the import budget; the card."""

import asyncio
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from diorama.errors import InputError
from diorama.systems.agent_monitor.chat_proxy import NOTE, build_app
from diorama.systems.agent_monitor.commands import app
from diorama.systems.agent_monitor.policy import Policy, Tools, load_policy
from diorama.systems.agent_monitor.ranker import Ranker


def _completion(*calls, text=None):
    tool_calls = [
        {"id": str(n), "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for n, (name, arguments) in enumerate(calls)
    ]
    message = {"role": "assistant", "content": text, **({"tool_calls": tool_calls} if calls else {})}
    return {"id": "c", "model": "m", "choices": [{"index": 0, "finish_reason": "stop", "message": message}]}


def _stream(*calls, text=""):
    deltas = [{"role": "assistant", "content": text}]
    for n, (name, arguments) in enumerate(calls):
        whole = json.dumps(arguments)
        deltas.append({"tool_calls": [{"index": n, "id": str(n), "function": {"name": name, "arguments": whole[:4]}}]})
        deltas.append({"tool_calls": [{"index": n, "function": {"arguments": whole[4:]}}]})
    chunks = [{"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"


@pytest.fixture
def upstream():
    """A stub of an OpenAI-compatible server; `reply` is what it answers."""

    class Stub(BaseHTTPRequestHandler):
        reply: bytes = b"{}"
        kind = "application/json"

        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-type", self.kind)
            self.send_header("content-length", str(len(self.reply)))
            self.end_headers()
            self.wfile.write(self.reply)

        do_GET = do_POST

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Stub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Stub, f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def _post(site, path, body, **headers):
    import httpx2

    async def go():
        transport = httpx2.ASGITransport(app=site)
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.post(path, json=body, headers=headers)

    return asyncio.run(go())


BODY = {"model": "m", "messages": [{"role": "user", "content": "Read notes.txt"}]}
GOOD, BAD = ("read_file", {"path": "notes.txt"}), ("delete_file", {"path": "notes.txt"})
STRICT = Policy(ranker=False, tools=Tools(deny=("delete_file",)), max_consecutive_denials=3)


@pytest.mark.parametrize("streamed", [False, True])
def test_good_calls_pass_unchanged_and_one_bad_call_discards_all(make_gate, upstream, streamed):
    stub, url = upstream
    stub.kind = "text/event-stream" if streamed else "application/json"
    make = (
        (lambda *calls: _stream(*calls, text="hm"))
        if streamed
        else (lambda *calls: json.dumps(_completion(*calls)).encode())
    )
    site = build_app(make_gate(STRICT), url)
    stub.reply = make(GOOD)
    assert _post(site, "/v1/chat/completions", {**BODY, "stream": streamed}, **{"x-run-id": "a"}).content == stub.reply
    stub.reply = make(GOOD, BAD)
    text = _post(site, "/v1/chat/completions", {**BODY, "stream": streamed}, **{"x-run-id": "b"}).text
    assert NOTE in text and "read_file" not in text and "delete_file" not in text


def test_three_refused_replies_end_the_run(make_gate, upstream):
    stub, url = upstream
    site = build_app(make_gate(STRICT), url)
    stub.reply = json.dumps(_completion(BAD)).encode()
    for _ in range(3):
        _post(site, "/v1/chat/completions", BODY)
    stub.reply = json.dumps(_completion(GOOD)).encode()
    assert NOTE in _post(site, "/v1/chat/completions", BODY).text


def test_other_endpoints_that_could_return_calls_are_closed(make_gate, upstream):
    _, url = upstream
    site = build_app(make_gate(STRICT), url)
    assert _post(site, "/v1/responses", {}).status_code == 403
    assert _post(site, "/v1/embeddings", {}).status_code == 200


def test_an_ambiguous_reply_is_not_handed_over(make_gate, upstream):
    stub, url = upstream
    stub.reply = b'{"choices": [], "choices": [{"message": {"tool_calls": [{}]}}]}'
    assert _post(build_app(make_gate(STRICT), url), "/v1/chat/completions", BODY).status_code == 502


def test_a_stream_cut_inside_a_call_releases_nothing_of_it(make_gate, upstream):
    stub, url = upstream
    stub.kind, stub.reply = "text/event-stream", b"".join(_stream(GOOD).split(b"\n\n")[i] + b"\n\n" for i in range(2))
    text = _post(build_app(make_gate(STRICT), url), "/v1/chat/completions", {**BODY, "stream": True}).text
    assert "read_file" not in text and NOTE in text


def test_run_judges_one_action(tmp_path, capsys):
    (tmp_path / "p.yaml").write_text("ranker: false\n")
    good = json.dumps({"tool": "read_file", "arguments": {"path": "a.txt"}, "task": "Read a.txt"})
    assert app(["run", good, "--policy", str(tmp_path / "p.yaml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["decision"] == "allow"
    bad = json.dumps({"tool": "bash", "arguments": {"command": "rm -rf /"}, "task": "Read a.txt"})
    assert app(["run", bad, "--policy", str(tmp_path / "p.yaml"), "--json"]) == 1


def test_replay_prints_a_verdict_a_line_and_a_summary(tmp_path, capsys):
    calls = [
        {"id": "1", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for name, arguments in (GOOD, ("bash", {"command": "rm -rf /"}))
    ]
    rows = [
        {
            "id": str(n),
            "task": "Read notes.txt",
            "label": n,
            "messages": [*BODY["messages"], {"role": "assistant", "content": "", "tool_calls": [calls[n]]}],
        }
        for n in (0, 1)
    ]
    (tmp_path / "runs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert app(["replay", str(tmp_path / "runs.jsonl"), "--json"]) == 0
    *verdicts, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert [set(row) for row in verdicts] == [{"run", "step", "decision", "score", "severity", "reasons", "ms"}] * 2
    assert verdicts[1]["decision"] == "deny" and verdicts[1]["score"] < verdicts[0]["score"]
    assert summary["per_run"]["auc"]["mean"] == 1.0 and summary["per_run"]["tp"] == 1


def test_init_writes_a_policy_that_loads_and_never_overwrites(tmp_path, file_server):
    command, _ = file_server
    path = tmp_path / "p.yaml"
    assert app(["init", "--policy", str(path), "--", *command]) == 0
    policy = load_policy(path)
    assert policy.tools.allow == ("read_file",) and set(policy.tools.hold) == {"write_file", "delete_file"}
    assert policy.tools.default == "deny" and "path" in policy.tools.schemas["read_file"]["properties"]
    with pytest.raises(ValueError, match="already"):
        app(["init", "--policy", str(path)])


def test_the_queue_is_worked_from_the_command_line(make_gate, tmp_path, capsys):
    gate = make_gate(Policy(ranker=False))
    ticket = gate.queue.hold(
        digest="d",
        run="r",
        step=0,
        tool="t",
        shown="{}",
        task="x",
        score=70,
        severity="unsure",
        reasons="",
        expires_seconds=60,
    )
    assert app(["queue", "list", "--json", "--out", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["items"][0]["ticket"] == ticket
    app(["queue", "show", ticket, "--out", str(tmp_path)])
    app(["queue", "approve", ticket, "--out", str(tmp_path)])
    assert gate.queue.consume(ticket, "d") and not gate.queue.consume(ticket, "d")
    with pytest.raises(ValueError, match="used"):
        app(["queue", "deny", ticket, "--out", str(tmp_path)])


def test_judging_imports_no_torch_and_the_verbs_import_nothing_heavy():
    package = "diorama.systems.agent_monitor"
    lines = [
        f"import sys; import {package}.commands",
        "assert not {'torch', 'numpy', 'mcp', 'openai'} & set(sys.modules), 'verbs'",
        f"from {package}.pipeline import Monitor; from {package}.policy import Policy; Monitor.from_policy(Policy())",
        "assert not {'torch', 'transformers', 'mcp', 'openai'} & set(sys.modules), 'monitor'",
    ]
    code = "\n".join(lines)
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_port_in_use_or_out_of_range_is_said_in_one_sentence():
    import socket

    from diorama.systems.agent_monitor.http_proxy import serve

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} .* --port"):
            serve(None, port=port)
    with pytest.raises(InputError, match="port 70000"):
        serve(None, port=70_000)


def test_the_card_is_the_report_in_words():
    from importlib.resources import files
    from pathlib import Path

    from diorama.systems.agent_monitor.card import card_of

    folder = Path(str(files("diorama"))) / "miniatures" / "agent_monitor"
    report = json.loads((folder / "config.json").read_text())["report"]
    assert card_of(Ranker.from_pretrained("agent_monitor"), report) == (folder / "README.md").read_text()


def test_the_cards_numbers_are_measured_again():
    from importlib.resources import files
    from pathlib import Path

    from diorama.systems.agent_monitor.card import measure

    folder = Path(str(files("diorama"))) / "miniatures" / "agent_monitor"
    claimed = json.loads((folder / "config.json").read_text())["report"]["measured"]
    assert measure(Ranker.from_pretrained("agent_monitor")) == claimed
