"""The language-model seam: replays, validated replies, refusal to reach the network, a real server on this machine."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from pydantic import BaseModel

from diorama.errors import InputError, ReplyError
from diorama.language.llm import (
    Abstain,
    Abstained,
    Completion,
    Endpoint,
    ModelUnavailable,
    Recorder,
    Replay,
    Request,
    ask,
    forbid_requests,
    parse_reply,
)


class Shape(BaseModel, extra="forbid"):
    number: int


HELLO = Request(messages=({"role": "user", "content": "hello"},))


class Scripted:
    def __init__(self, *texts):
        self.texts, self.seen = list(texts), []

    def complete(self, request):
        self.seen.append(request)
        return Completion(text=self.texts.pop(0))


def test_the_key_is_of_the_canonical_request():
    again = Request(messages=({"content": "hello", "role": "user"},))
    assert HELLO.key == again.key != Request(messages=HELLO.messages, seed=1).key


def test_what_is_recorded_is_replayed(tmp_path):
    recorder = Recorder(Scripted("hi"), tmp_path / "exchanges.jsonl")
    recorder.complete(HELLO)
    replay = Replay.load(tmp_path / "exchanges.jsonl")
    assert replay.complete(HELLO).text == "hi"
    with pytest.raises(ModelUnavailable, match="recorded"):
        replay.complete(Request(messages=({"role": "user", "content": "other"},)))


def test_a_damaged_recording_names_its_line(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"key": "a"}\n')
    with pytest.raises(InputError, match="Line 1"):
        Replay.load(tmp_path / "x.jsonl")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "[7]",
        '{"number": "x"}',
        '{"number": 1, "number": 1}',
        '{"number": 1, "b": 1}',
        'ok {"number": 1}',
        '{"number": NaN}',
    ],
)
def test_a_reply_is_one_valid_object_or_an_error(text):
    with pytest.raises(ReplyError):
        parse_reply(text, Shape)


def test_a_fence_around_the_object_is_allowed():
    assert parse_reply('```json\n{"number": 1}\n```', Shape).number == 1


def test_one_repair_shows_the_model_its_mistake():
    model = Scripted("seven", '{"number": 7}')
    assert ask(model, HELLO.messages, Shape).number == 7
    assert model.seen[1].messages[-2]["content"] == "seven"
    with pytest.raises(ReplyError):
        ask(Scripted("a", "b"), HELLO.messages, Shape)


def test_abstaining_is_an_answer_of_its_own():
    with pytest.raises(Abstained):
        Abstain().complete(HELLO)


def test_no_request_leaves_the_machine_when_forbidden():
    with forbid_requests(), pytest.raises(ModelUnavailable, match="switched off"):
        Endpoint("https://models.example/v1", "m").complete(HELLO)


class Handler(BaseHTTPRequestHandler):
    reply: bytes = b""
    status = 200

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(self.status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(self.reply)))
        self.end_headers()
        self.wfile.write(self.reply)

    def log_message(self, *args):
        pass


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (
            200,
            {
                "id": "1",
                "object": "chat.completion",
                "created": 1,
                "model": "m",
                "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}],
            },
            "hi",
        ),
        (500, {"error": {"message": "no"}}, None),
        (200, {"choices": []}, None),
        (200, "nothing", None),
    ],
)
def test_an_endpoint_answers_or_fails_plainly(status, body, text):
    pytest.importorskip("openai")
    handler = type("H", (Handler,), {"reply": json.dumps(body).encode(), "status": status})
    server = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        endpoint = Endpoint(f"http://127.0.0.1:{server.server_port}/v1", "m", timeout=5)
        with forbid_requests():
            if text is None:
                with pytest.raises(ModelUnavailable):
                    endpoint.complete(HELLO)
            else:
                assert endpoint.complete(HELLO).text == text
    finally:
        server.shutdown()
        server.server_close()
