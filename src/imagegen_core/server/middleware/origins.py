"""Access to the server from web pages of other origins."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imagegen_core.request import shown
from imagegen_core.server.errors import ForbiddenError
from imagegen_core.server.middleware.refusal import refuse

ANY = "*"

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})  # methods without changes: RFC 9110, section 9.2.1
_PORTS = {"http": 80, "https": 443}
_SCHEMES = {"ws": "http", "wss": "https"}  # a WebSocket's page has the HTTP origin of its server


class OriginCheck:
    """ASGI middleware: refuse requests from pages of other origins, unless the settings allow the origin.

    Browsers send ``Origin`` with preflights and with every request of a page that may change something. Without it,
    ``Sec-Fetch-Site`` decides (https://www.w3.org/TR/fetch-metadata/). Programs send neither. Other pages cannot read
    responses, because the browser blocks responses without permission. They also cannot show the server's page in a
    frame, because visitors could click there by mistake (https://www.w3.org/TR/CSP3/#directive-frame-ancestors).
    """

    def __init__(self, app: ASGIApp, allowed: Sequence[str]) -> None:
        """Wrap `app`; `allowed` holds origins such as ``https://example.org``, and ``*`` allows any origin."""
        self._app = app
        self._allowed = {plain_origin(origin) for origin in allowed}
        self._frames = " ".join(["frame-ancestors 'self'", *sorted(self._allowed - {"null"})])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] in ("http", "websocket") and (wrong := self._wrong(scope)):
            await refuse(scope, receive, send, wrong)
            return

        async def send_unframed(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).setdefault("Content-Security-Policy", self._frames)
            await send(message)

        await self._app(scope, receive, send_unframed)

    def _wrong(self, scope: Scope) -> ForbiddenError | None:
        headers = Headers(scope=scope)
        is_preflight = "access-control-request-method" in headers
        if ANY in self._allowed or (scope.get("method") in _SAFE and not is_preflight):
            return None
        own = plain_origin(f"{_SCHEMES.get(scope['scheme'], scope['scheme'])}://{headers.get('host', '')}")
        for origin in headers.getlist("origin"):
            if plain_origin(origin) not in self._allowed | {own}:
                return ForbiddenError(
                    f"Pages of {shown(origin)} may not use this server: add their origin to IMAGEGEN_CORS_ORIGINS "
                    "to let them"
                )
        if "origin" not in headers and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            return ForbiddenError(
                "Pages of other origins may not use this server: add theirs to IMAGEGEN_CORS_ORIGINS to let them"
            )
        return None


def plain_origin(origin: str) -> str:
    """Normalize an origin for comparison, without its scheme's default port: RFC 6454, section 6.2."""
    origin = origin.strip().lower().rstrip("/")
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return origin
    return origin.removesuffix(f":{port}") if port and port == _PORTS.get(parts.scheme) else origin
