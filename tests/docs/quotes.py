"""The messages that the guides quote, by heading."""

from __future__ import annotations

import re
from collections import defaultdict

from tests.docs.fences import fences

GUIDES = ("docs/troubleshooting.md", "docs/sd15-to-sdxl.md")


def quotes() -> dict[str, list[str]]:
    """Return each heading's quotes in order."""
    by_heading = defaultdict(list)
    for fence in (fence for guide in GUIDES for fence in fences(guide) if fence.language == "text"):
        by_heading[fence.heading].append(fence.text.strip())
    return dict(by_heading)


def is_quoted(message: str, quote: str) -> bool:
    """Tell whether a message matches a guide's quote, where ``…`` stands for any text in a line."""
    return re.fullmatch(".*".join(re.escape(part) for part in quote.split("…")), message.strip()) is not None
