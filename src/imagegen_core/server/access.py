"""API keys: who may use the server, who may change it, and which addresses a server without keys may listen on."""

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

_NAMED = 12  # digits of a key's hash that stand for its owner
# What is open without a key: the state for whoever watches the server, the page, which asks for a key, the documents.
_PUBLIC = frozenset({"/", "/health", "/ready", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"})
_PUBLIC_BELOW = ("/page/", "/static-offline-docs/")
# A picture under a key that the server made: 74 random bits, which nobody guesses.
_MADE_KEY = re.compile(r"/storage/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class Keys:
    """ASGI middleware: lets a request in that shows a key; every request, where there are no keys.

    It notes in the request's state whose request it is (``caller``, empty without a key), whether that may change the
    server (``is_admin``), and whether it may see how the server is set up (``is_trusted``).
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str], admin_keys: Sequence[str] = ()) -> None:
        """Wrap `app`, and remember the keys' hashes alone.

        Args:
            app: The application.
            keys: The keys that draw.
            admin_keys: The keys that draw and may change the server; none gives all keys that right.
        """
        self._app = app
        self._digests = [_digest(key) for key in (*keys, *admin_keys)]
        self._admins = [_digest(key) for key in admin_keys or keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or refuse it."""
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
        """Whose request it is, and whether that may change the server.

        Raises:
            UnauthorizedError: It shows no key, or none that is known.
        """
        if not self._digests:
            return "", True
        shown = _shown(headers)
        if shown is None:
            raise UnauthorizedError("This server wants an API key: send it as 'Authorization: Bearer KEY' or X-API-Key")
        digest = _digest(shown)
        if not _is_among(digest, self._digests):
            raise UnauthorizedError("This API key is not known here: ask who runs the server for one")
        return digest[:_NAMED], _is_among(digest, self._admins)


def is_public(scope: Scope) -> bool:
    """Whether a request needs no API key: only reads, and only what is open to everybody."""
    path = route_path(scope)
    return scope.get("method") in ("GET", "HEAD") and bool(
        path in _PUBLIC or path.startswith(_PUBLIC_BELOW) or _MADE_KEY.fullmatch(path)
    )


async def require_admin(request: Request) -> None:
    """Let a request pass that may change the server for everybody; a dependency of such routes.

    Plugins mark theirs with it, too: ``@app.post("/mine", dependencies=[Depends(require_admin)])``.

    Raises:
        ForbiddenError: The server has admin keys, and the request shows another key.
    """
    if not request.state.is_admin:
        raise ForbiddenError(
            "This changes the server for everybody: send an admin key, one of the server's IMAGEGEN_ADMIN_KEYS"
        )


def check_address(settings: Settings) -> None:
    """Refuse to serve everybody on the network by accident.

    Raises:
        SettingsError: The address is not loopback, and there are no keys, nor the word that this is meant.
    """
    if settings.api_keys or settings.admin_keys or settings.allow_no_keys or is_loopback(settings.host):
        return
    raise SettingsError(
        f"Not listening on {settings.host} without API keys, as everyone who reaches it could draw: set "
        "IMAGEGEN_API_KEYS, or IMAGEGEN_ALLOW_NO_KEYS=1 where something else keeps others out"
    )


def _is_among(digest: str, known: Sequence[str]) -> bool:
    matches = [hmac.compare_digest(digest, one) for one in known]  # all, so that the time tells nothing
    return any(matches)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _shown(headers: Headers) -> str | None:
    """The key that a request shows; as Basic, which A1111's clients send, it is the password."""
    if key := headers.get("x-api-key"):
        return key
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except ValueError:  # no base64, or no text in it
            return None
    return None
