"""The messages that the guides quote, by the headings they stand under."""

from __future__ import annotations

import re
from collections import defaultdict

from tests.docs.fences import fences

GUIDES = ("docs/troubleshooting.md", "docs/sd15-to-sdxl.md")


def quotes() -> dict[str, list[str]]:
    """Each heading's quotes in their order."""
    found = defaultdict(list)
    for fence in (fence for guide in GUIDES for fence in fences(guide) if fence.language == "text"):
        found[fence.heading].append(fence.text.strip())
    return dict(found)


def is_quoted(message: str, quote: str) -> bool:
    """Whether it is what a guide quotes, where ``…`` stands for anything in a line."""
    return re.fullmatch(".*".join(re.escape(part) for part in quote.split("…")), message.strip()) is not None
