"""Refuses bodies that are too large, before they are read."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imagegen_core.server.middleware.json_bodies import is_json
from imagegen_core.server.middleware.refusal import refuse
from imagegen_core.server.paths import route_path

PICTURES_IN_JSON = ("/sdapi/v1/txt2img", "/sdapi/v1/extra-single-image", "/sdapi/v1/png-info")
"""Routes whose JSON holds pictures, in base64; of ``txt2img``, those of scripts that are off."""


class BodyLimit:
    """ASGI middleware: reads so many bytes of a request at most."""

    def __init__(self, app: ASGIApp, limit: int, json_limit: int) -> None:
        """Wrap `app`.

        Args:
            app: The application.
            limit: Bytes of a body that may hold a picture.
            json_limit: Bytes of JSON that holds none.
        """
        self._app, self._limit, self._json_limit = app, limit, min(limit, json_limit)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, and stop it when it grows too large."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._json_limit if is_json(scope) and route_path(scope) not in PICTURES_IN_JSON else self._limit
        said = f"This route reads bodies of up to {limit} bytes: send less"
        too_large = HTTPException(413, said, {"Connection": "close"})
        length = Headers(scope=scope).get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > limit:
            await refuse(scope, receive, send, too_large)
            return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > limit:
                raise too_large
            return message

        await self._app(scope, counted, send)
