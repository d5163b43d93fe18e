"""API keys for drawing and for administration; without keys, the server listens only on loopback by default."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Sequence

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from imagegen_core.errors import SettingsError
from imagegen_core.server.errors import ForbiddenError, UnauthorizedError
from imagegen_core.server.middleware.hosts import is_loopback
from imagegen_core.server.middleware.refusal import refuse
from imagegen_core.server.paths import route_path
from imagegen_core.settings import Settings

_NAMED = 12  # hexadecimal digits of a key's hash, used as the caller's name
# Paths open without a key: the state for monitoring, the documents, and the page (it asks for a key itself).
_PUBLIC = frozenset({"/", "/health", "/ready", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"})
_PUBLIC_BELOW = ("/page/", "/static-offline-docs/")
# A stored picture whose key the server made. The key holds 74 random bits, so it cannot be guessed.
_MADE_KEY = re.compile(r"/storage/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class Keys:
    """ASGI middleware: if the server has keys, refuse a request without a valid key, except on public paths.

    It writes three values to the request's state. ``caller`` is the key's owner, empty without a key. ``is_admin``
    permits changes to the server. ``is_trusted`` permits a view of the server's setup.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str], admin_keys: Sequence[str] = ()) -> None:
        """Wrap `app`, and keep only the hashes of the keys.

        Args:
            app: The application.
            keys: Keys for drawing.
            admin_keys: Keys for drawing and for changing the server. If empty, all keys have both rights.
        """
        self._app = app
        self._digests = [_digest(key) for key in (*keys, *admin_keys)]
        self._admins = [_digest(key) for key in admin_keys or keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] in ("http", "websocket"):
            try:
                caller, is_admin = self._caller(Headers(scope=scope))
            except UnauthorizedError as error:
                if not is_public(scope):
                    await refuse(scope, receive, send, error)
                    return
                caller, is_admin, is_trusted = "", False, False
            else:
                is_trusted = True
            state = scope.setdefault("state", {})
            state.update(caller=caller, is_admin=is_admin, is_trusted=is_trusted)
        await self._app(scope, receive, send)

    def _caller(self, headers: Headers) -> tuple[str, bool]:
        """Return the caller's name, and its right to change the server.

        Raises:
            UnauthorizedError: The request has no key, or an unknown key.
        """
        if not self._digests:
            return "", True
        shown = _shown(headers)
        if shown is None:
            raise UnauthorizedError("This server needs an API key: send it as 'Authorization: Bearer KEY' or X-API-Key")
        digest = _digest(shown)
        if not _is_among(digest, self._digests):
            raise UnauthorizedError("This API key is unknown: ask the server's operator for a key")
        return digest[:_NAMED], _is_among(digest, self._admins)


def is_public(scope: Scope) -> bool:
    """Return True if a request needs no API key: it only reads a public path."""
    path = route_path(scope)
    return scope.get("method") in ("GET", "HEAD") and bool(
        path in _PUBLIC or path.startswith(_PUBLIC_BELOW) or _MADE_KEY.fullmatch(path)
    )


async def require_admin(request: Request) -> None:
    """Refuse a request without the right to change the server; a dependency of such routes.

    Plugins use it for their own routes: ``@app.post("/mine", dependencies=[Depends(require_admin)])``.

    Raises:
        ForbiddenError: The server has admin keys, and the request has another key.
    """
    if not request.state.is_admin:
        raise ForbiddenError(
            "This changes the server for all clients: send an admin key, one of the server's IMAGEGEN_ADMIN_KEYS"
        )


def check_address(settings: Settings) -> None:
    """Refuse to serve the network without API keys, unless the settings allow it.

    Raises:
        SettingsError: The address is not loopback, there are no keys, and `Settings.allow_no_keys` is off.
    """
    if settings.api_keys or settings.admin_keys or settings.allow_no_keys or is_loopback(settings.host):
        return
    raise SettingsError(
        f"Not listening on {settings.host} without API keys, because anyone who reaches it could draw: set "
        "IMAGEGEN_API_KEYS, or IMAGEGEN_ALLOW_NO_KEYS=1 if something else protects it"
    )


def _is_among(digest: str, known: Sequence[str]) -> bool:
    # Compare all digests, so that the time reveals nothing.
    matches = [hmac.compare_digest(digest, other) for other in known]
    return any(matches)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _shown(headers: Headers) -> str | None:
    """Return the request's key; in Basic authentication, as A1111's clients use it, the key is the password."""
    if key := headers.get("x-api-key"):
        return key
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except ValueError:  # not base64, or not UTF-8
            return None
    return None
