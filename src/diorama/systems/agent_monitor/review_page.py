"""The review queue as one small page: plain HTML, no scripts, a key in the address, every form bound to what was
shown."""

import html
import secrets
from typing import Any

from diorama.errors import MissingExtra
from diorama.systems.agent_monitor.review import Held, ReviewError, ReviewQueue
from diorama.systems.agent_monitor.text import visible

_STYLE = "body{font:16px system-ui;margin:2rem;max-width:60rem}pre{background:#f4f4f4;padding:.6rem;white-space:pre-wrap}article{border-top:2px solid #bbb}button{font:inherit;margin-right:1rem}"  # noqa: E501


def build_page(queue: ReviewQueue) -> tuple[Any, str]:
    """An ASGI app that shows the queue and takes decisions, and the key without which it shows nothing."""
    try:
        from starlette.applications import Starlette
        from starlette.requests import Request
        from starlette.responses import HTMLResponse, RedirectResponse, Response
        from starlette.routing import Route
    except ImportError as error:
        raise MissingExtra(str(error.name), "studio", "The review page") from None
    key = secrets.token_urlsafe(24)

    def is_allowed(request: Request, given: str) -> bool:
        return secrets.compare_digest(given.encode(), key.encode()) and (request.url.hostname or "") in (
            "127.0.0.1",
            "localhost",
        )

    async def show(request: Request) -> Response:
        if not is_allowed(request, request.query_params.get("key", "")):
            return Response("The address lacks its key.", 403)
        said = request.query_params.get("said", "")
        body = "".join(_article(item, key) for item in queue.pending()) or "<p>Nothing is held.</p>"
        page = f"<!doctype html><meta charset=utf-8><title>Review</title><style>{_STYLE}</style><h1>Held actions</h1><p>{html.escape(said)}</p>{body}"  # noqa: E501
        return HTMLResponse(
            page,
            headers={
                "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'",
                "Referrer-Policy": "no-referrer",
            },
        )

    async def decide(request: Request) -> Response:
        form = await request.form()
        if not is_allowed(request, str(form.get("key", ""))):
            return Response("The form lacks its key.", 403)
        try:
            item = queue.decide(
                str(form.get("ticket", "")),
                form.get("decision") == "approve",
                "page",
                digest=str(form.get("digest", "")),
            )
            said = f"{item.tool}: {item.state}"
        except ReviewError as error:
            said = str(error)
        return RedirectResponse(request.url_for("show").include_query_params(key=key, said=said), 303)

    return Starlette(routes=[Route("/", show, name="show"), Route("/decide", decide, methods=["POST"])]), key


def _article(item: Held, key: str) -> str:
    def safe(text: str) -> str:
        return html.escape(visible(text))

    fields = "".join(
        f'<input type=hidden name={name} value="{html.escape(value)}">'
        for name, value in (("key", key), ("ticket", item.ticket), ("digest", item.digest))
    )
    return (
        f"<article><h2>{safe(item.tool)} <small>{item.severity}, score {item.score:.1f}</small></h2><p>Task: "
        f"{safe(item.task[:500])}</p>"
        f"<pre>{safe(item.shown[:20_000])}</pre><p>{safe(item.reasons)}</p><form method=post "
        f"action=/decide>{fields}"
        "<button name=decision value=approve>Approve once</button><button name=decision "
        "value=deny>Deny</button></form></article>"
    )
