"""Check JSON bodies while they arrive; parse large bodies outside the event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imagegen_core.server.middleware.json_values import read_json
from imagegen_core.server.middleware.refusal import has_body

_LARGE = 64 * 1024  # bytes; parsing them takes about a millisecond


class JsonBodies:
    """ASGI middleware: parse JSON bodies as the routes read them, and refuse invalid JSON.

    This also protects the routes of plugins, whatever their route class.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap `app`."""
        self._app = app
        self._limiter = CapacityLimiter(1)  # the interpreter runs only one parser at a time

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and check its body as it arrives."""
        if scope["type"] == "http" and is_json(scope):
            receive = self._checked(scope, receive)
        await self._app(scope, receive, send)

    def _checked(self, scope: Scope, receive: Receive) -> Callable[[], Awaitable[Message]]:
        parts: list[bytes] = []

        async def checked() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                parts.append(message.get("body", b""))
                if not message.get("more_body", False) and (body := b"".join(parts)):
                    parts.clear()
                    scope.setdefault("state", {})["json"] = await self._read(body)
            return message

        return checked

    async def _read(self, body: bytes) -> Any:
        if len(body) <= _LARGE:
            return read_json(body)
        return await anyio.to_thread.run_sync(read_json, body, limiter=self._limiter)


class JsonRoute(APIRoute):
    """A route for JSON: use the value from `JsonBodies`, and refuse other content types before the body is read."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler."""
        handle = super().get_route_handler()
        takes_json = getattr(self.body_field and self.body_field.field_info, "media_type", None) == "application/json"

        async def handle_json(request: Request) -> Response:
            if takes_json and has_body(request.scope) and not is_json(request.scope):
                raise HTTPException(
                    415, "This route takes JSON: send the body with the header Content-Type: application/json"
                )
            return await handle(_ReadRequest(request.scope, request.receive))

        return handle_json


class _ReadRequest(Request):
    """A request whose JSON is already parsed, if its content type is JSON."""

    async def json(self) -> Any:
        """Return the body's value."""
        body = await self.body()
        return self.state.json if body and is_json(self.scope) else read_json(body)


def is_json(scope: Scope) -> bool:
    """Return True for the content types ``application/json`` and ``application/…+json`` (RFC 6839)."""
    kind = Headers(scope=scope).get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
