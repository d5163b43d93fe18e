"""Support for HEAD on every GET route."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadAsGet:
    """ASGI middleware: answer HEAD with GET's status and headers (RFC 9110, section 9.3.2)."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        answered = False

        async def send_head(message: Message) -> None:
            nonlocal answered
            if not answered:
                await send(message)
            if message["type"] == "http.response.start":
                answered = True
                await send({"type": "http.response.body", "body": b""})

        async def receive_until_response() -> Message:
            return {"type": "http.disconnect"} if answered else await receive()  # ends a stream

        as_get = {**scope, "method": "GET"}
        try:
            await self._app(as_get, receive_until_response, send_head)
        finally:
            scope.update({name: as_get[name] for name in ("route", "endpoint") if name in as_get})
