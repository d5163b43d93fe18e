"""Refusing a request before its body is read."""

from __future__ import annotations

import anyio
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketClose

from imagegen_core.server.errors import answer

_LINGER = 2.0  # seconds in which a refused client may still send, so that it reads the answer


def has_body(scope: Scope) -> bool:
    """Whether the request announces a body: RFC 9112, section 6."""
    headers = Headers(scope=scope)
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


async def refuse(scope: Scope, receive: Receive, send: Send, error: Exception) -> None:
    """Answer a request with an error at once, and end its connection where a body is on its way.

    A connection that ends with bytes unread is reset, and the client may lose the answer. So the body is thrown away
    for a moment after the answer: the lingering close of RFC 9112, section 9.6.
    """
    if scope["type"] == "websocket":
        await WebSocketClose(code=1008, reason="Refused")(scope, receive, send)
        return
    response = answer(Request(scope), error)
    if not has_body(scope) or not scope.get("http_version", "1.1").startswith("1."):
        await response(scope, receive, send)
        return
    response.headers["Connection"] = "close"
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": bytes(response.body), "more_body": True})
    with anyio.move_on_after(_LINGER):
        while (await receive()).get("more_body", False):
            pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})
