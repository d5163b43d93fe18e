"""Give every request an id, log it and count it."""

from __future__ import annotations

import logging
import re
import secrets
import time
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imagegen_core.server.errors import answer
from imagegen_core.server.waiting import ClientGoneError

if TYPE_CHECKING:
    from imagegen_core.server.context import ServerContext

logger = logging.getLogger(__name__)

REQUEST_ID = "X-Request-ID"
_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_CLIENT_GONE = 499  # nginx's status for a closed connection
_LOGGED_PATH = 512  # characters of a path in the log
_QUIET = ("/health", "/ready", "/metrics")


class AccessLog:
    """ASGI middleware around all but `BehindProxy`: log and count requests, and answer unexpected errors."""

    def __init__(self, app: ASGIApp, context: ServerContext) -> None:
        """Wrap `app`."""
        self._app, self._context = app, context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        request_id = _request_id(request)
        scope.setdefault("state", {})["request_id"] = request_id
        began, status = time.perf_counter(), 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except ClientGoneError:
            status = _CLIENT_GONE
        except Exception as error:
            logger.exception("A request failed", extra={"request_id": request_id})
            if status:  # a response has already started
                raise
            await answer(request, error)(scope, receive, noted)
        finally:
            self._note(scope, status, request_id, time.perf_counter() - began)

    def _note(self, scope: Scope, status: int, request_id: str, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "none")
        self._context.metrics.answered(route, status)
        own_path = scope["path"].removeprefix(scope.get("root_path", ""))
        address = (scope.get("client") or [None])[0]
        logger.log(
            logging.DEBUG if own_path in _QUIET else logging.INFO,
            "%s %s %d",
            scope["method"],
            quote(scope["path"])[:_LOGGED_PATH],  # quoted, so that a client cannot log line breaks or terminal codes
            status,
            extra={"request_id": request_id, "client": address, "status": status, "seconds": round(seconds, 4)},
        )


def _request_id(request: Request) -> str:
    """Return the client's request id if it is safe to log, otherwise a new id."""
    given = request.headers.get(REQUEST_ID.lower(), "")
    return given if _ID.fullmatch(given) else secrets.token_hex(8)
