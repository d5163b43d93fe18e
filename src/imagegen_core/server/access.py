"""API keys: who may use the server, who may change it, and which addresses a server without keys may listen on."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
from collections.abc import Sequence

from fastapi import Request

from imagegen_core.errors import SettingsError
from imagegen_core.server.errors import ForbiddenError, UnauthorizedError
from imagegen_core.settings import Settings

_NAMED = 12  # digits of a key's hash that stand for its owner


class Keys:
    """Lets a request in that shows a key; every request, where there are no keys. A dependency of the routes."""

    def __init__(self, keys: Sequence[str], admin_keys: Sequence[str] = ()) -> None:
        """Remember the keys' hashes alone.

        Args:
            keys: The keys that draw.
            admin_keys: The keys that draw and may change the server; none gives all keys that right.
        """
        self._digests = [_digest(key) for key in (*keys, *admin_keys)]
        self._admins = [_digest(key) for key in admin_keys or keys]

    async def __call__(self, request: Request) -> None:
        """Note whose request it is.

        Raises:
            UnauthorizedError: It shows no key, or none that is known.
        """
        request.state.caller, request.state.is_admin = "", True
        if not self._digests:
            return
        shown = _shown(request)
        if shown is None:
            raise UnauthorizedError("This server wants an API key: send it as 'Authorization: Bearer KEY' or X-API-Key")
        digest = _digest(shown)
        if not _is_among(digest, self._digests):
            raise UnauthorizedError("This API key is not known here: ask who runs the server for one")
        request.state.caller, request.state.is_admin = digest[:_NAMED], _is_among(digest, self._admins)


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
    if settings.api_keys or settings.admin_keys or settings.allow_no_keys or _is_loopback(settings.host):
        return
    raise SettingsError(
        f"Not listening on {settings.host} without API keys, as everyone who reaches it could draw: set "
        "IMAGEGEN_API_KEYS, or IMAGEGEN_ALLOW_NO_KEYS=1 where something else keeps others out"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_among(digest: str, known: Sequence[str]) -> bool:
    matches = [hmac.compare_digest(digest, one) for one in known]  # all, so that the time tells nothing
    return any(matches)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _shown(request: Request) -> str | None:
    """The key that a request shows; as Basic, which A1111's clients send, it is the password."""
    if key := request.headers.get("x-api-key"):
        return key
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return None
    return None
