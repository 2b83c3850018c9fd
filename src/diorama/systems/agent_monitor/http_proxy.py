"""The monitor as a proxy for streamable-HTTP MCP servers, both eras: with a handshake and sessions, and without."""

import secrets
import signal
import socket
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from diorama.agents.actions import ActionError, parse_strict
from diorama.errors import InputError, MissingExtra
from diorama.systems.agent_monitor.pipeline import Gate
from diorama.systems.agent_monitor.rpc import Refusal, RpcGuard

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "host",
        "content-length",
        "content-encoding",
        "accept-encoding",
    }
)
MAX_SESSIONS = 1000
MAX_BODY = 16 * 1024 * 1024


class Sessions:
    """One guard a client: by its session id, or where the protocol has none by its credentials and address."""

    def __init__(self, gate: Gate, task: str, refusal: Refusal):
        self.gate, self.task, self.refusal = gate, task, refusal
        self._guards: OrderedDict[str, RpcGuard] = OrderedDict()

    def of(self, name: str) -> RpcGuard:
        guard = self._guards.get(name)
        if guard is None:
            guard = self._guards[name] = RpcGuard(self.gate, f"http-{secrets.token_hex(4)}", self.task, self.refusal)
            while len(self._guards) > MAX_SESSIONS:
                self._guards.popitem(last=False)
        self._guards.move_to_end(name)
        return guard

    def rename(self, name: str, other: str) -> None:
        """The server named the session: keep what its guard has learnt."""
        if other not in self._guards and name in self._guards:
            self._guards[other] = self._guards.pop(name)


def header_conflict(headers: Mapping[str, str], message: Any) -> bool:
    """Whether the headers that describe a body (Mcp-Method, Mcp-Name) speak of another call than the body."""
    if not isinstance(message, dict):
        return "mcp-name" in headers
    params = message.get("params")
    named = params.get("name") or params.get("uri") if isinstance(params, dict) else None
    method = headers.get("mcp-method")
    return (method is not None and method != message.get("method")) or (
        "mcp-name" in headers and named is not None and headers["mcp-name"] != named
    )


async def relay_events(guard: RpcGuard, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Server-sent events through the guard: each event's data is one JSON-RPC message; all else passes as it is."""
    buffer = b""
    async for chunk in chunks:
        buffer += chunk
        while True:
            ends = [(at, mark) for mark in (b"\r\n\r\n", b"\n\n") if (at := buffer.find(mark)) >= 0]
            if not ends:
                break
            at, mark = min(ends)
            event, buffer = buffer[:at], buffer[at + len(mark) :]
            yield await _event(guard, event) + mark
        if len(buffer) > MAX_BODY:
            return
    if buffer:
        yield await _event(guard, buffer)


async def _event(guard: RpcGuard, event: bytes) -> bytes:
    data = b"\n".join(line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:"))
    if not data.strip():
        return event
    changed = await guard.from_server(data)
    if changed == data:
        return event
    kept = [line for line in event.splitlines() if not line.startswith(b"data:")]
    return b"\n".join([*kept, b"data: " + changed])


def foreign(request: Any, hosts: tuple[str, ...]) -> tuple[int, str] | None:
    """Status and text for a request that names another host or comes from another site's page, else None."""
    if (request.url.hostname or "") not in hosts:
        return 421, "unknown host"
    origin = request.headers.get("origin")
    if origin and origin.split("//")[-1].rsplit(":", 1)[0] not in hosts:
        return 403, "foreign origin"
    return None


def client_name(request: Any) -> str:
    """What tells a client from the others: its session id, else its address and credentials."""
    address = request.client.host if request.client else ""
    return request.headers.get("mcp-session-id") or f"{address}|{request.headers.get('authorization', '')}"


def contradicts_headers(request: Any, body: bytes) -> bool:
    """Whether a body is JSON of another call than its headers say; what is no JSON is the guard's to refuse."""
    try:
        return header_conflict(request.headers, parse_strict(body))
    except ActionError:
        return False


def upstream_request(client: Any, upstream: str, request: Any, body: bytes) -> Any:
    """The client's request for the upstream URL, with its query and without the headers of one connection."""
    headers = {key: value for key, value in request.headers.items() if key not in HOP_BY_HOP}
    return client.build_request(
        request.method, upstream, headers=headers, content=body, params=dict(request.query_params) or None
    )


async def events_of(guard: RpcGuard, reply: Any) -> AsyncIterator[bytes]:
    """A streamed reply's events through the guard; the connection closes with the stream."""
    try:
        async for part in relay_events(guard, reply.aiter_bytes()):
            yield part
    finally:
        await reply.aclose()


def check_address(url: str) -> None:
    """Raises InputError for what is no http(s) URL."""
    if not url.startswith(("http://", "https://")):
        raise InputError(f"{url!r} is no http(s) URL, so no server can be reached there. Give the server's address.")


def build_app(
    gate: Gate,
    upstream: str,
    *,
    task: str = "",
    refusal: Refusal = "result",
    hosts: tuple[str, ...] = ("127.0.0.1", "localhost"),
) -> Any:
    """An ASGI app that relays every path below its root to the upstream URL's server.

    hosts are the names under which a client may reach the proxy, so that a web page cannot reach it by rebinding a
    name.
    """
    try:
        import httpx2
        from starlette.applications import Starlette
        from starlette.requests import Request
        from starlette.responses import Response, StreamingResponse
        from starlette.routing import Route
    except ImportError as error:
        raise MissingExtra(str(error.name), "mcp", "The HTTP proxy") from None
    check_address(upstream)
    sessions = Sessions(gate, task, refusal)
    client = httpx2.AsyncClient(timeout=httpx2.Timeout(30, read=None))

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        yield
        await client.aclose()

    async def handle(request: Request) -> Response:
        stranger = foreign(request, hosts)
        if stranger is not None:
            return Response(stranger[1], status_code=stranger[0])
        body = await request.body()
        name = client_name(request)
        guard = sessions.of(name)
        if len(body) > MAX_BODY:
            return Response("too large", status_code=413)
        if request.method == "POST":
            if contradicts_headers(request, body):
                return Response("the headers describe another call than the body", status_code=400)
            forward, answer = await guard.from_client(body)
            if forward is None:
                return Response(answer, 200 if answer else 202, media_type="application/json" if answer else None)
            body = forward
        try:
            reply = await client.send(upstream_request(client, upstream, request, body), stream=True)
        except httpx2.HTTPError as error:
            return Response(f"the server cannot be reached ({type(error).__name__})", status_code=502)
        back = {key: value for key, value in reply.headers.items() if key.lower() not in HOP_BY_HOP}
        if "mcp-session-id" in reply.headers:
            sessions.rename(name, reply.headers["mcp-session-id"])
        if "text/event-stream" in reply.headers.get("content-type", ""):
            return StreamingResponse(events_of(guard, reply), reply.status_code, back)
        content = await reply.aread()
        await reply.aclose()
        if content and request.method == "POST":
            content = await guard.from_server(content)
        return Response(content, reply.status_code, back)

    return Starlette(
        routes=[Route("/{path:path}", handle, methods=["GET", "POST", "DELETE", "OPTIONS"])], lifespan=lifespan
    )


def serve(app: Any, *, port: int, host: str = "127.0.0.1") -> None:
    """Run an ASGI app in the main thread until interrupted, then return; logs go to stderr.

    Raises InputError where the port cannot be had.
    """
    try:
        import uvicorn
    except ImportError:
        raise MissingExtra("uvicorn", "studio", "Serving HTTP") from None
    if not 0 <= port <= 65_535:
        raise InputError(f"The port {port} is outside 0 to 65535, so nothing can be served there. Name another --port.")
    try:
        listening = socket.create_server((host, port))
    except OSError as error:
        raise InputError(
            f"The port {port} of {host} cannot be opened ({error.strerror}), so nothing can be served there. "
            "Name a free one with --port."
        ) from None
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2))
    with listening:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)  # uvicorn raises them once more when it is done
        server.run(sockets=[listening])
