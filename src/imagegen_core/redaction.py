"""Hides what is secret in URLs and messages: passwords, tokens, signatures."""

from __future__ import annotations

import re

HIDDEN = "***"

_WORD = re.compile(r"[^\s'\"<>]+")
# The value of any parameter whose name ends so, such as X-Amz-Signature or access_token.
_SECRET = re.compile(
    r"(?P<name>(?:token|sig|signature|key|keyid|password|passwd|pass|pwd|secret|credentials?|auth)=)[^&#\s'\"<>]+",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """Return the text without the secrets of the URLs in it.

    User names and passwords before the host (RFC 3986, section 3.2.1) are left out. The values of parameters whose
    names tell of a secret, such as ``token``, ``sig``, ``key`` and ``password``, become ``***``.
    """
    if "://" in text and "@" in text:
        text = _WORD.sub(_without_userinfo, text)
    return _SECRET.sub(rf"\g<name>{HIDDEN}", text)


def _without_userinfo(word: re.Match[str]) -> str:
    """A word without all that stands between ``://`` and the last ``@``: passwords hold ``/`` and ``@``, too."""
    start, end = word[0].find("://") + 3, word[0].rfind("@")
    return word[0] if start < 3 or end < start else word[0][:start] + word[0][end + 1 :]  # noqa: PLR2004
