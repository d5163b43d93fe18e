"""Refuse a request before its body is read."""

from __future__ import annotations

import anyio
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketClose

from imagegen_core.server.errors import answer

_LINGER = 2.0  # seconds to discard a refused client's data, so that it can read the response


def has_body(scope: Scope) -> bool:
    """Return True if the request announces a body: RFC 9112, section 6."""
    headers = Headers(scope=scope)
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


async def refuse(scope: Scope, receive: Receive, send: Send, error: Exception) -> None:
    """Answer a request with an error, and close its connection if a body is coming.

    A connection closed with unread data is reset, and the client may lose the response. So the server discards the body
    for a moment after the response: the lingering close of RFC 9112, section 9.6.
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
