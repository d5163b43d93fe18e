"""Stand-ins for pictures, whose checksums show whether they are whole."""

from __future__ import annotations

import hashlib
import os

_SUM = 32


def picture(size: int = 200_000) -> bytes:
    """Return random bytes with their checksum at the end."""
    body = os.urandom(size - _SUM)
    return body + hashlib.sha256(body).digest()


def is_whole(data: bytes) -> bool:
    return hashlib.sha256(data[:-_SUM]).digest() == data[-_SUM:]
