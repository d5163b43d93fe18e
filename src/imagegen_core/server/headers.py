"""Texts as values of HTTP headers."""

from __future__ import annotations

import string
from urllib.parse import quote

_PLAIN = "".join(set(string.punctuation) - {"%"}) + " "


def header_value(text: str) -> str:
    """Write a text as a header's value, percent-encoded (RFC 3986) where it is not printable ASCII."""
    return quote(text, safe=_PLAIN, errors="replace")
