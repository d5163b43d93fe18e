"""Refuse large bodies before they are read."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imagegen_core.server.middleware.json_bodies import is_json
from imagegen_core.server.middleware.refusal import refuse
from imagegen_core.server.paths import route_path

PICTURES_IN_JSON = (
    "/generate",
    "/v1/jobs",
    "/v1/images/edits",
    "/v1/images/variations",
    "/sdapi/v1/txt2img",
    "/sdapi/v1/extra-single-image",
    "/sdapi/v1/png-info",
)
"""Routes with base64 pictures in their JSON; in ``txt2img``, disabled scripts hold the pictures."""


class BodyLimit:
    """ASGI middleware: limit the number of bytes of a request's body."""

    def __init__(self, app: ASGIApp, limit: int, json_limit: int) -> None:
        """Wrap `app`.

        Args:
            app: The application.
            limit: Maximum bytes of a body with a picture.
            json_limit: Maximum bytes of JSON without pictures.
        """
        self._app, self._limit, self._json_limit = app, limit, min(limit, json_limit)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and stop it when its body grows too large."""
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
