"""The monitor as an OpenAI-compatible chat proxy: tool calls in a model's reply are judged before they are handed over.

One refused call discards all calls of its reply (as Inspect does), streamed or not. Only chat completions are judged,
so
other endpoints that could return calls are closed.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from diorama.agents.actions import Action, ActionError, parse_strict, sha256
from diorama.agents.transcript import Step, calls_of, clean_text, describe_message, text_of
from diorama.errors import MissingExtra
from diorama.systems.agent_monitor.http_proxy import HOP_BY_HOP, MAX_BODY, check_address
from diorama.systems.agent_monitor.pipeline import Gate, Refused

HARMLESS = ("/models", "/embeddings", "/moderations", "/health", "/tokenize")
"""Endings of paths that are relayed without judgement: nothing they return is an action."""


class StreamCut(ValueError):
    """A streamed reply ended, or became unreadable, before its calls were whole."""


def run_of(body: Mapping[str, Any], named: str | None) -> str:
    """The run of a conversation: the client's own name for it, or a digest of how it began."""
    if named:
        return f"chat-{named[:80]}"
    start = [describe_message(message) for message in body.get("messages", [])[:2] if isinstance(message, dict)]
    return f"chat-{sha256(json.dumps(start).encode())[:16]}"


async def judge_calls(gate: Gate, body: Mapping[str, Any], replies: Sequence[Mapping[str, Any]], run: str) -> bool:
    """Whether every call in a reply's messages may be handed over. Calls are judged together; each is released by
    digest."""
    messages = tuple(message for message in body.get("messages", ()) if isinstance(message, dict))
    task = next((text_of(m.get("content")) for m in messages if m.get("role") == "user"), "")
    before = sum(len(calls_of(message)) for message in messages)
    steps = [
        Step(run, before + index, task, action, messages)
        for index, action in enumerate(
            Action(call.tool, call.arguments, clean_text(call.thought), call.call_id)
            for reply in replies
            for call in calls_of(reply)
        )
    ]
    releases = await asyncio.gather(*(gate.submit(step) for step in steps))
    try:
        for step, release in zip(steps, releases, strict=True):
            release.take(step.action)
    except Refused:
        return False
    return True


def without_calls(message: Mapping[str, Any], note: str) -> dict[str, Any]:
    """A reply's message with its calls removed and the note in their place."""
    kept = {key: value for key, value in message.items() if key not in ("tool_calls", "function_call")}
    return {**kept, "content": f"{message.get('content') or ''}\n{note}".strip()}


NOTE = "[The proposed tool calls were not permitted.]"


async def judged_reply(gate: Gate, body: Mapping[str, Any], raw: bytes, run: str) -> bytes:
    """A whole chat completion: the same bytes if it holds no call or all are allowed, else one without calls.

    Raises ActionError when the reply is not unambiguous JSON.
    """
    reply = parse_strict(raw)
    choices = reply.get("choices") if isinstance(reply, dict) else None
    if not isinstance(choices, list):
        return raw
    messages = [choice.get("message") or {} for choice in choices if isinstance(choice, dict)]
    if not any(calls_of(message) for message in messages) or await judge_calls(gate, body, messages, run):
        return raw
    for choice in choices:
        choice["message"] = without_calls(choice.get("message") or {}, NOTE)
        choice["finish_reason"] = "stop"
    return json.dumps(reply, ensure_ascii=False).encode()


class Assembly:
    """The pieces of a streamed reply put together: one message a choice."""

    def __init__(self) -> None:
        self.messages: dict[int, dict[str, Any]] = {}
        self.finished: set[int] = set()
        self.template: dict[str, Any] = {}

    def add(self, chunk: Mapping[str, Any]) -> bool:
        """Take one chunk; True if it carries a part of a tool call."""
        has_call = False
        self.template = {key: value for key, value in chunk.items() if key not in ("choices", "usage")} or self.template
        for choice in chunk.get("choices") or ():
            index = int(choice.get("index", 0))
            message = self.messages.setdefault(
                index, {"role": "assistant", "content": "", "calls": {}, "old": {"name": "", "arguments": ""}}
            )
            delta = choice.get("delta") or {}
            message["content"] += text_of(delta.get("content"))
            for position, part in enumerate(delta.get("tool_calls") or ()):
                has_call = True
                call = message["calls"].setdefault(part.get("index", position), {"id": "", "name": "", "arguments": ""})
                function = part.get("function") or {}
                call["id"] += part.get("id") or ""
                call["name"] += function.get("name") or ""
                call["arguments"] += function.get("arguments") or ""
            if delta.get("function_call"):
                has_call = True
                for key in ("name", "arguments"):
                    message["old"][key] += delta["function_call"].get(key) or ""
            if choice.get("finish_reason"):
                self.finished.add(index)
        return has_call

    def replies(self) -> list[dict[str, Any]]:
        """The assembled messages. Raises StreamCut unless every choice was finished."""
        if set(self.messages) - self.finished:
            raise StreamCut("the stream ended inside a tool call")
        found = []
        for message in self.messages.values():
            calls = [
                {"id": c["id"], "function": {"name": c["name"], "arguments": c["arguments"]}}
                for c in message["calls"].values()
            ]
            old = {"function_call": message["old"]} if message["old"]["name"] or message["old"]["arguments"] else {}
            found.append({"role": "assistant", "content": message["content"], "tool_calls": calls, **old})
        return found


async def judged_stream(
    gate: Gate, body: Mapping[str, Any], chunks: AsyncIterator[bytes], run: str
) -> AsyncIterator[bytes]:
    """A streamed completion: text passes as it comes; from the first piece of a call on everything waits for the
    verdict."""
    assembly, held, is_holding = Assembly(), [], False
    try:
        async for event in _events(chunks):
            data = b"\n".join(line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:"))
            if data.strip() and data.strip() != b"[DONE]":
                chunk = parse_strict(data)
                if not isinstance(chunk, dict):
                    raise StreamCut("a chunk is no object")
                is_holding |= assembly.add(chunk)
            if is_holding:
                held.append(event)
                if sum(map(len, held)) > MAX_BODY:
                    raise StreamCut("the reply is too large")
            else:
                yield event + b"\n\n"
        if is_holding and await judge_calls(gate, body, assembly.replies(), run):
            for event in held:
                yield event + b"\n\n"
        elif is_holding:
            for event in _refusal(assembly):
                yield event
    except (ActionError, StreamCut, TypeError, AttributeError, ValueError):
        for event in _refusal(assembly):
            yield event


def _refusal(assembly: Assembly) -> list[bytes]:
    choices = [
        {"index": index, "delta": {"content": NOTE}, "finish_reason": "stop"} for index in assembly.messages or (0,)
    ]
    return [b"data: " + json.dumps({**assembly.template, "choices": choices}).encode() + b"\n\n", b"data: [DONE]\n\n"]


async def _events(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    buffer = b""
    async for chunk in chunks:
        buffer = (buffer + chunk).replace(b"\r\n", b"\n")
        *whole, buffer = buffer.split(b"\n\n")
        for event in whole:
            if event:
                yield event
        if len(buffer) > MAX_BODY:
            raise StreamCut("one event is too large")
    if buffer.strip():
        yield buffer


def build_app(gate: Gate, upstream: str) -> Any:
    """An ASGI app: the upstream's /chat/completions with judged calls, its harmless endpoints as they are, nothing
    else.

    upstream is the server's base URL, ending in /v1 where the server wants that; a client's own /v1 prefix is dropped.
    """
    try:
        import httpx2
        from starlette.applications import Starlette
        from starlette.requests import Request
        from starlette.responses import JSONResponse, Response, StreamingResponse
        from starlette.routing import Route
    except ImportError as error:
        raise MissingExtra(str(error.name), "studio", "The chat proxy") from None
    check_address(upstream)
    client = httpx2.AsyncClient(timeout=httpx2.Timeout(120, connect=10))

    def problem(text: str, status: int) -> Response:
        return JSONResponse({"error": {"message": text, "type": "agent_monitor"}}, status)

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        yield
        await client.aclose()

    async def handle(request: Request) -> Response:
        path = "/" + request.path_params["path"].removeprefix("v1/").rstrip("/")
        is_chat = request.method == "POST" and path == "/chat/completions"
        if not is_chat and not path.endswith(HARMLESS) and not path.startswith("/models/"):
            return problem("This proxy judges chat completions only; other endpoints are closed.", 403)
        raw = await request.body()
        headers = {key: value for key, value in request.headers.items() if key not in HOP_BY_HOP}
        body: Any = {}
        if is_chat:
            try:
                body = parse_strict(raw)
            except ActionError as error:
                return problem(str(error), 400)
            if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
                return problem("The request has no list of messages.", 400)
        run = run_of(body, request.headers.get("x-run-id"))
        try:
            sent = client.build_request(
                request.method,
                upstream.rstrip("/") + path,
                headers=headers,
                content=raw,
                params=dict(request.query_params) or None,
            )
            reply = await client.send(sent, stream=True)
            back = {key: value for key, value in reply.headers.items() if key.lower() not in HOP_BY_HOP}
            if is_chat and "text/event-stream" in reply.headers.get("content-type", ""):

                async def stream() -> AsyncIterator[bytes]:
                    try:
                        async for part in judged_stream(gate, body, reply.aiter_bytes(), run):
                            yield part
                    except httpx2.HTTPError:
                        return  # the model's server broke off; what was held back stays held back
                    finally:
                        await reply.aclose()

                return StreamingResponse(stream(), reply.status_code, back)
            content = await reply.aread()
            await reply.aclose()
        except httpx2.HTTPError as error:
            return problem(f"The model's server cannot be reached ({type(error).__name__}).", 502)
        if is_chat and reply.is_success:
            try:
                content = await judged_reply(gate, body, content, run)
            except (ActionError, TypeError, AttributeError, ValueError):
                return problem("The model's reply is not unambiguous JSON and was not handed over.", 502)
        return Response(content, reply.status_code, back)

    return Starlette(routes=[Route("/{path:path}", handle, methods=["GET", "POST"])], lifespan=lifespan)
