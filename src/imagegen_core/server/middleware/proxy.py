"""The client's view of a request behind a proxy: address, scheme, host and path."""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Sequence
from typing import cast

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from imagegen_core.server.errors import answer
from imagegen_core.settings.values import root_path as checked_root_path

logger = logging.getLogger(__name__)

_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")


class BehindProxy:
    """The outermost ASGI middleware: restore the client's address and URL behind a proxy.

    Only trusted proxies may set ``X-Forwarded-For``, ``-Proto``, ``-Host`` and ``-Prefix``. The last of several values
    counts, because the nearest proxy wrote it. The proxy's own ``Host`` moves to ``request.state.received_host``.
    All paths get their prefix, even if the proxy strips it, as ASGI requires
    (https://asgi.readthedocs.io/en/latest/specs/www.html, ``root_path``).
    """

    def __init__(self, app: ASGIApp, root_path: str = "", trusted: Sequence[str] = ()) -> None:
        """Wrap `app`.

        Args:
            app: The application.
            root_path: The path prefix in the clients' URLs, without a trailing slash.
            trusted: Addresses and networks of proxies.
        """
        self._app, self._root_path = app, root_path
        self._trusted = [ipaddress.ip_network(network) for network in trusted]
        self._with_client = cast("ASGIApp", ProxyHeadersMiddleware(app, list(trusted)))  # type: ignore[arg-type]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        scope, root_path = dict(scope), self._root_path
        if trusted := self._trusts(scope):
            try:
                root_path = _forwarded_prefix(scope) or root_path
                _take_forwarded_host(scope)
            except ValueError as error:
                logger.warning("A proxy's request was refused: %s", error)
                await answer(Request(scope), HTTPException(400, str(error)))(scope, receive, send)
                return
        _root(scope, root_path)
        await (self._with_client if trusted else self._app)(scope, receive, send)

    def _trusts(self, scope: Scope) -> bool:
        try:
            address = ipaddress.ip_address((scope.get("client") or [""])[0])
        except ValueError:  # a Unix socket has no address
            return False
        return any(address in network for network in self._trusted)


def _forwarded_prefix(scope: Scope) -> str:
    prefix = _last(scope, "x-forwarded-prefix")
    try:
        return checked_root_path(prefix)
    except ValueError as error:
        raise ValueError(f"Invalid X-Forwarded-Prefix {prefix[:64]!r}: {error}") from error


def _take_forwarded_host(scope: Scope) -> None:
    host = _last(scope, "x-forwarded-host")
    if not host:
        return
    if not _HOST.fullmatch(host):
        raise ValueError(
            f"Invalid X-Forwarded-Host {host[:64]!r}: expected a name or address, such as example.org:8443"
        )
    scope["headers"] = list(scope["headers"])
    headers = MutableHeaders(scope=scope)
    scope["state"] = {**scope.get("state", {}), "received_host": headers.get("host", "")}
    headers["host"] = host


def _last(scope: Scope, name: str) -> str:
    return ",".join(Headers(scope=scope).getlist(name)).rpartition(",")[2].strip()


def _root(scope: Scope, root_path: str) -> None:
    """Set `root_path` in the scope, and add it to the path."""
    outer = scope.get("root_path", "")
    if not root_path or f"{outer}/".startswith(f"{root_path}/"):  # uvicorn's --root-path already set it
        return
    if not _has_prefix(scope, root_path):
        scope["path"] = root_path + scope["path"]
        scope["raw_path"] = root_path.encode() + scope.get("raw_path", b"")
    scope["root_path"] = root_path + outer


def _has_prefix(scope: Scope, root_path: str) -> bool:
    """Return True if the proxy left the prefix in the path; for ``/api/modes`` below ``/api``, the routes decide."""
    if not f"{scope['path']}/".startswith(f"{root_path}/"):
        return False
    rooted = {**scope, "root_path": root_path + scope.get("root_path", "")}
    return _is_route(rooted) or not _is_route(scope)


def _is_route(scope: Scope) -> bool:
    return any(route.matches(dict(scope))[0] is not Match.NONE for route in scope["app"].routes)
