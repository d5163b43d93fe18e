"""Base64 pictures in JSON."""

from __future__ import annotations

import base64
import binascii
import re

import anyio.to_thread

from imagegen_core.errors import InvalidRequestError

_LARGE = 2**18  # characters; decoding them takes less than a millisecond
_DATA_URL = re.compile(r"\s*data:[^,]{0,256},", re.IGNORECASE)
_STANDARD = bytes.maketrans(b"-_", b"+/")


async def decode_base64(text: str) -> bytes:
    """Decode a client's base64 picture; a large picture on another thread.

    It accepts the line breaks of RFC 2045, RFC 4648's alphabet for URLs, missing padding, and the start of a data URL
    (RFC 2397).

    Raises:
        InvalidRequestError: The text is not base64.
    """
    return _decoded(text) if len(text) < _LARGE else await anyio.to_thread.run_sync(_decoded, text)


def _decoded(text: str) -> bytes:
    prefix = _DATA_URL.match(text)
    try:
        digits = text[prefix.end() if prefix else 0 :].encode("ascii").translate(_STANDARD, b" \t\r\n\f\v").rstrip(b"=")
        return base64.b64decode(digits + b"=" * (-len(digits) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        said = "it has other characters" if isinstance(error, UnicodeError) else error
        raise InvalidRequestError(f"The image is not base64 ({said}): encode the file's bytes", "image") from error
