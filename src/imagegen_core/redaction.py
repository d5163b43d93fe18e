"""Hide secrets in URLs and messages: passwords, tokens, signatures."""

from __future__ import annotations

import re

HIDDEN = "***"

_WORD = re.compile(r"[^\s'\"<>]+")
# Matches parameters by the end of their name, such as X-Amz-Signature or access_token.
_SECRET = re.compile(
    r"(?P<name>(?:token|sig|signature|key|keyid|password|passwd|pass|pwd|secret|credentials?|auth)=)[^&#\s'\"<>]+",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """Return the text without the secrets in its URLs.

    User names and passwords before the host (RFC 3986, section 3.2.1) are removed. The values of parameters with
    secret names, such as ``token``, ``sig``, ``key`` and ``password``, become ``***``.
    """
    if "://" in text and "@" in text:
        text = _WORD.sub(_without_userinfo, text)
    return _SECRET.sub(rf"\g<name>{HIDDEN}", text)


def _without_userinfo(word: re.Match[str]) -> str:
    """Remove the text between ``://`` and the last ``@``, because passwords may contain ``/`` and ``@``."""
    start, end = word[0].find("://") + 3, word[0].rfind("@")
    return word[0] if start < 3 or end < start else word[0][:start] + word[0][end + 1 :]  # noqa: PLR2004
