"""Token authentication for a Ray cluster of this server.

Ray runs any code from any client of its ports. With ``RAY_AUTH_MODE=token`` it requires a token
(https://docs.ray.io/en/latest/ray-security/token-auth.html). By default, Ray writes a token into the home folder.
"""

from __future__ import annotations

import secrets
from collections.abc import MutableMapping
from pathlib import Path

LOCAL = "local"
"""Value of ``RAY_ADDRESS`` for a cluster owned by this server."""

_TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def choose_authentication(environ: MutableMapping[str, str]) -> None:
    """Set Ray's variables in `environ`; call this before the import of Ray, because Ray reads them then.

    An existing cluster in ``RAY_ADDRESS`` keeps its owner's choice, and ``RAY_AUTH_MODE`` has priority. Otherwise Ray
    requires a token: the user's token if there is one, else a random token for this process and its children.
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
    except (RuntimeError, OSError):  # the home folder is missing or not readable
        return False
