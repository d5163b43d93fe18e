"""Values of HTTP headers."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from imagegen_core.hosting.upscaling import Enlarged

_PLAIN = "".join(set(string.punctuation) - {"%"}) + " "


def header_value(text: str) -> str:
    """Encode a text as a header value: percent-encode (RFC 3986) all but printable ASCII."""
    return quote(text, safe=_PLAIN, errors="replace")


def upscaling_headers(enlarged: Enlarged) -> dict[str, str]:
    """Return the headers with the details of an enlargement."""
    return {
        "X-SR-Model": header_value(enlarged.upscaler),
        "X-SR-Passes": str(enlarged.passes),
        "X-SR-Scale-Per-Pass": str(enlarged.scale),
        "X-SR-Format": enlarged.format,
    }
