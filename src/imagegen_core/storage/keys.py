"""The keys of pictures: chosen by clients, or made by the server with a mark of their owner."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import uuid

from imagegen_core.errors import InvalidRequestError

# Letters, digits and signs without a meaning in file systems and URLs; never a hidden file or a parent folder.
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}(\.[A-Za-z0-9]{1,8})?")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_MARK_BITS = 48
_RANDOM_BITS = 74


def new_key(owner: str = "") -> str:
    """Make an unguessable key with a mark of its owner: see `is_owned`.

    It is a UUID of version 8 (RFC 9562, section 5.8): 48 bits of mark in ``custom_a``, and 74 random bits.
    """
    random = secrets.randbits(_RANDOM_BITS)
    low, high = random & (2**62 - 1), random >> 62
    return str(uuid.UUID(int=_mark(owner, random) << 80 | 8 << 76 | high << 64 | 2 << 62 | low))


def is_uuid(key: str) -> bool:
    """Return whether a key has the form of `new_key`'s keys."""
    return _UUID.fullmatch(key) is not None


def is_owned(key: str, owner: str) -> bool:
    """Return whether `new_key` made a key for this owner."""
    if not is_uuid(key):
        return False
    value = uuid.UUID(key).int
    random = (value >> 64 & 0xFFF) << 62 | value & (2**62 - 1)
    mark = (value >> 80).to_bytes(_MARK_BITS // 8)
    return hmac.compare_digest(mark, _mark(owner, random).to_bytes(_MARK_BITS // 8))


def key_of(owner: str, key: str) -> str:
    """Return the store's key for a client's key, so that clients cannot reach each other's pictures.

    Args:
        owner: The key's owner; empty on a server without API keys, so that all clients share their keys.
        key: The client's name of the picture.
    """
    return key if not owner else hashlib.sha256(f"{owner}/{key}".encode()).hexdigest()


def check_key(key: str) -> str:
    """Return a key if it is valid.

    Raises:
        InvalidRequestError: It could lead out of the store, or is too long.
    """
    if not _KEY.fullmatch(key):
        raise InvalidRequestError(
            f"Invalid key {key[:64]!r}: expected up to 128 letters, digits, '-' and '_', with or without an ending "
            "such as .png"
        )
    return key


def plain_key(key: str) -> str:
    """Return a valid key without the optional file suffix of an address.

    Raises:
        InvalidRequestError: The key is not valid: see `check_key`.
    """
    return check_key(key).removesuffix(".png").removesuffix(".jpeg").removesuffix(".jpg")


def _mark(owner: str, random: int) -> int:
    digest = hashlib.sha256(f"{owner}/{random:x}".encode()).digest()
    return int.from_bytes(digest[: _MARK_BITS // 8])
