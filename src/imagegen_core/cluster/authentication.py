"""Who may use a Ray cluster that this server begins: those who have its token.

Ray runs any code for whoever reaches its ports. With ``RAY_AUTH_MODE=token`` it asks them for a token
(https://docs.ray.io/en/latest/ray-security/token-auth.html). Left alone, Ray writes one into the user's home folder.
"""

from __future__ import annotations

import secrets
from collections.abc import MutableMapping
from pathlib import Path

LOCAL = "local"
"""The ``RAY_ADDRESS`` of a cluster of this server's own."""

_TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def choose_authentication(environ: MutableMapping[str, str]) -> None:
    """Set Ray's variables in `environ`, before Ray is imported, which reads them then.

    A cluster that ``RAY_ADDRESS`` names has its owner's choice, and so has ``RAY_AUTH_MODE``. Otherwise Ray asks for a
    token: the user's, where there is one, else a random one that this process and its children alone know.
    """
    joins = environ.get("RAY_ADDRESS") not in (None, "", LOCAL)
    if joins or environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    environ["RAY_AUTH_MODE"] = "token"
    if not any(environ.get(name) for name in _TOKENS) and not _has_token_file():
        environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _has_token_file() -> bool:
    try:
        return (Path.home() / ".ray" / "auth_token").is_file()
    except (RuntimeError, OSError):  # there is no home folder, or it cannot be looked into
        return False
