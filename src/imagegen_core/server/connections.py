"""Connections with limits on their number, and on the time to send and to read.

uvicorn has none of these limits (its issue 157). Hypercorn and granian limit only the time for headers.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any, Literal

import uvicorn
from starlette.requests import Request
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from imagegen_core.errors import NotReadyError
from imagegen_core.server.connection_limits import ConnectionLimits
from imagegen_core.server.errors import answer

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

logger = logging.getLogger(__name__)

_MIN_RATE = 500  # bytes per second, as in Apache's default RequestReadTimeout (mod_reqtimeout)
_MAX_HEAD = 64 * 1024  # bytes, as in h11
_CHECKS = 4  # number of checks in each period of `seconds`


class ServerConfig(uvicorn.Config):
    """uvicorn's configuration with limits on connections; `BehindProxy` reads the proxies' headers."""

    def __init__(self, app: ASGIApp, limits: ConnectionLimits, **options: Any) -> None:
        """Configure the server for `app`; `options` are uvicorn's."""
        own = {"http": Connection, "log_config": None, "access_log": False, "proxy_headers": False}
        super().__init__(app, **own | options)
        self.limits = limits


class Connection(HttpToolsProtocol):
    """A client's connection, closed if the client is too slow or if there are too many connections.

    A request's head must be complete within `ConnectionLimits.seconds`. In each such period, the client must send or
    read at least 500 bytes per second of a body or a response.
    """

    config: ServerConfig

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for a request."""
        super().connection_made(transport)
        limits = self.config.limits
        self._limits, self._served = limits, self.app
        self._has_share = self.client is not None and limits.limits_address(self.client[0])
        self.incoming: Literal["head", "body"] = "head"
        self._head_bytes = self._received = self._body_bytes = 0
        self._is_whole = False
        self.idle_since = self.loop.time()
        self._head_since: float | None = self.loop.time()
        self._period_since, self._was_paused = 0.0, False
        self._unsent: tuple[float, int] | None = None
        self.evicted = False
        self._timer = self.loop.call_later(limits.seconds / _CHECKS, self._check)
        self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse the data; limit the size of a head, and the overhead of a chunked body."""
        was_head, self._is_whole = self.incoming == "head", False
        self._received += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self.incoming == "head":
            if self._head_since is None and self.is_idle:
                self._head_since = self.loop.time()
            if was_head and not self._is_whole:  # otherwise the same data also held a body
                self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD:
                self._refuse("431 Request Header Fields Too Large", f"The headers are over {_MAX_HEAD} bytes")
        elif self._received - self._body_bytes > _MAX_HEAD + self._body_bytes:
            self._refuse("400 Bad Request", "The body's chunks are smaller than their overhead: send larger chunks")

    def resume_writing(self) -> None:
        """Note progress of the response."""
        self._unsent = None
        super().resume_writing()

    def on_message_begin(self) -> None:
        """Note the start of a request."""
        super().on_message_begin()
        self.incoming, self._head_bytes = "head", 0
        self._head_since = self._head_since or self.loop.time()

    def on_headers_complete(self) -> None:
        """Answer the request, or refuse it if there are too many connections."""
        self.incoming, self._head_since = "body", None
        self._begin_period(self.loop.time())
        crowded = self._make_room()
        self.app = _Crowded(self._served, crowded, self._limits.probes) if crowded else self._served
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse invalid HTTP, but write nothing into a response in progress."""
        logger.info("A client sent an invalid HTTP/1.1 request", extra=self._who())
        self._refuse("400 Bad Request", f"{msg} Send HTTP/1.1, and https through a proxy")

    def on_body(self, body: bytes) -> None:
        """Count the body's bytes."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait for the next request."""
        super().on_message_complete()
        self.incoming, self._head_bytes, self._is_whole = "head", 0, True

    def on_response_complete(self) -> None:
        """Note the start of the idle time."""
        self.idle_since = self.loop.time()
        super().on_response_complete()

    def handle_websocket_upgrade(self) -> None:
        """Pass the connection to a plugin's WebSocket route; its frames have no time limit."""
        self._timer.cancel()
        super().handle_websocket_upgrade()

    def _begin_period(self, now: float) -> None:
        self._period_since, self._received, self._body_bytes = now, 0, 0
        self._was_paused = self.flow.read_paused

    def _check(self) -> None:
        """Close the connection if its client is too slow."""
        now, seconds = self.loop.time(), self._limits.seconds
        if self.transport.is_closing() or self.flow.write_paused:
            self._check_unsent(now)
        elif self.incoming == "head":
            if self._head_since is not None and now - self._head_since >= seconds:
                self._time_out()
        elif now - self._period_since >= seconds:
            is_paused = self._was_paused or self.flow.read_paused  # this server stopped reading
            if self.cycle.response_complete or (self._received < _MIN_RATE * seconds and not is_paused):
                self._time_out()
            self._begin_period(now)
        self._timer = self.loop.call_later(seconds / _CHECKS, self._check)

    def _check_unsent(self, now: float) -> None:
        """Close the connection of a slow reader, because its response takes the server's memory."""
        size = self.transport.get_write_buffer_size()
        if self._unsent is None:
            self._unsent = now, size
        elif now - self._unsent[0] >= self._limits.seconds:
            if self._unsent[1] - size < _MIN_RATE * self._limits.seconds:
                logger.info("Closed a connection: the client did not read its response", extra=self._who())
                self.transport.abort()
            self._unsent = now, size

    def _time_out(self) -> None:
        logger.info("Closed a connection: the client did not send its request", extra=self._who())
        if self.incoming == "head" and self._head_bytes == 0:
            self.transport.close()  # browsers open connections in advance, and expect no response on them
            return
        self._refuse(
            "408 Request Timeout",
            f"The request did not arrive in time: send its headers within {self._limits.seconds:g} s, and at least "
            f"{_MIN_RATE} bytes a second of its body",
        )

    def _refuse(self, status: str, message: str, *headers: str) -> None:
        """Answer an incomplete request with an error, unless a response has started, and close."""
        if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
            body = json.dumps({"detail": message, "type": "invalid_request", "field": None})
            lines = (f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers)
            self.transport.write("\r\n".join([*lines, "Connection: close", "", body]).encode())
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    def _make_room(self) -> str:
        """Close the oldest connection without a complete request, if there are too many.

        Returns:
            The reason for a refusal, as a sentence; empty if there is room.
        """
        there = [other for other in self.connections if isinstance(other, Connection) and not other.evicted]
        if len(there) > (most := self._limits.connections):
            why = f"This server has {most} connections, as many as it takes (IMAGEGEN_MAX_CONNECTIONS): ask again"
        elif self._has_share and len(there := [other for other in there if other.address == self.address]) > (
            most := self._limits.share
        ):
            why = (
                f"Your address has {most} connections, as many as one may (a quarter of IMAGEGEN_MAX_CONNECTIONS): "
                "close some; a proxy is named in IMAGEGEN_TRUSTED_PROXIES"
            )
        else:
            return ""
        waiting = [other for other in there if other is not self and (other.is_idle or other.incoming == "body")]
        if not waiting:
            return why
        min(waiting, key=lambda other: (other.incoming == "body", other.idle_since)).evict()
        return ""

    @property
    def address(self) -> str | None:
        """The client's address."""
        return self.client and self.client[0]

    @property
    def is_idle(self) -> bool:
        """True while no request is in progress."""
        return self.cycle is None or self.cycle.response_complete

    def evict(self) -> None:
        """Close the connection to make room for another."""
        self.evicted = True
        if self.is_idle and self._head_since is None:
            self.transport.close()
        else:
            self._refuse("503 Service Unavailable", "This server has too many connections: ask again", "Retry-After: 5")

    def _who(self) -> dict[str, str | None]:
        return {"client": self.address}


class _Crowded:
    """ASGI application for a crowded server: answer probes, and refuse all other requests."""

    def __init__(self, app: ASGIApp, why: str, probes: tuple[str, ...]) -> None:
        self._app, self._why, self._probes = app, why, probes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in self._probes:
            await self._app(scope, receive, send)
        else:
            await answer(Request(scope), NotReadyError(self._why))(scope, receive, send)
