"""The server's accepted host names: the defence against DNS rebinding.

A web page can point its own host name at 127.0.0.1. The browser then treats this server as part of that page's site.
Only the ``Host`` header shows the attack: it holds the page's name. https://en.wikipedia.org/wiki/DNS_rebinding
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from imagegen_core.request import shown
from imagegen_core.server.middleware.refusal import refuse

ANY = "*"

_HOST = re.compile(r"(\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(:[0-9]*)?")  # RFC 9110, section 7.2


class HostCheck:
    """ASGI middleware: refuse requests for foreign host names.

    Loopback names, loopback addresses and the connection's own address are always allowed. A server on the network
    accepts any address, because a page at an address can only come from that address.
    """

    def __init__(self, app: ASGIApp, host: str, allowed: Sequence[str]) -> None:
        """Wrap `app`.

        Args:
            app: The application.
            host: The address or name of the listening socket.
            allowed: More names and addresses; ``*.example.org`` allows all names below it, ``*`` allows any name.
        """
        self._app = app
        self._on_network = not is_loopback(host)
        self._allowed = {plain_host(name) for name in (host, *allowed)}
        self._endings = tuple(name.removeprefix(ANY) for name in self._allowed if name.startswith(f"{ANY}."))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] in ("http", "websocket") and (wrong := self._wrong(scope)):
            await refuse(scope, receive, send, wrong)
            return
        await self._app(scope, receive, send)

    def allows(self, host: str, reached: str | None = None) -> bool:
        """Return True if the server accepts a host.

        Args:
            host: A name or an address, without a port.
            reached: The connection's local address; None if unknown.
        """
        host, reached = plain_host(host), reached and plain_host(reached)
        if ANY in self._allowed or host in self._allowed or host == reached or is_loopback(host):
            return True
        if _address(host) is not None:
            return self._on_network or bool(reached and _address(reached) and not is_loopback(reached))
        return host.endswith(self._endings)

    def _wrong(self, scope: Scope) -> HTTPException | None:
        given = Headers(scope=scope).getlist("host")
        if not given and scope.get("http_version") == "1.0":
            return None  # HTTP/1.0 has no Host header, and browsers do not use it
        if len(given) != 1:
            return HTTPException(400, f"{len(given)} Host headers came with the request: send one")
        sent_by_proxy = scope.get("state", {}).get("received_host")
        reached = (scope.get("server") or (None,))[0]
        for host in (*given, *([sent_by_proxy] if sent_by_proxy else ())):
            match = _HOST.fullmatch(host)
            if match is None:
                return HTTPException(400, f"Invalid Host header {shown(host)}: expected a host such as localhost:4200")
            if not self.allows(name := match["ipv6"] or match["name"], reached):
                return HTTPException(
                    421,
                    f"This server does not answer to {shown(name)}: ask it by its address, or add the name to "
                    "IMAGEGEN_ALLOWED_HOSTS",
                )
        return None


def is_loopback(host: str) -> bool:
    """Return True for a loopback address, for ``localhost`` and for names below it (RFC 6761, section 6.3)."""
    address = _address(host)
    if address is None:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback


def plain_host(host: str) -> str:
    """Normalize a host for comparison: lower case, no brackets, no trailing dot."""
    host = host.strip().lower().removeprefix("[").removesuffix("]").rstrip(".")
    address = _address(host)
    return host if address is None else str(address)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
