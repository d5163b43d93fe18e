"""The code blocks of the documents."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt

ROOT = Path(__file__).parent.parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md")))
_SNIPPET = "--8<-- "
_TITLE = re.compile(r'title="([^"]*)"')


class Fence(NamedTuple):
    """A code block.

    Attributes:
        page: The document's path from the root.
        line: The number of its first line.
        language: The language that it declares.
        text: Its content, with included files inserted.
        heading: The heading above it.
        included: The file that it consists of, or None.
        title: The name of the file that it shows, or an empty text.
    """

    page: str
    line: int
    language: str
    text: str
    heading: str
    included: Path | None
    title: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def fences(page: str) -> Iterator[Fence]:
    """Yield the code blocks of a page in order."""
    heading, tokens = "", MarkdownIt("commonmark").parse((ROOT / page).read_text(encoding="utf-8"))
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        if token.type == "heading_open" and following is not None:
            heading = following.content
        elif token.type == "fence" and token.map is not None:
            included = _included(token.content)
            text = included.read_text(encoding="utf-8") if included else token.content
            title = _TITLE.search(token.info)
            language = token.info.partition(" ")[0]
            yield Fence(page, token.map[0] + 1, language, text, heading, included, title[1] if title else "")


def _included(text: str) -> Path | None:
    """Return the file that a block includes, in the syntax of pymdownx.snippets."""
    return ROOT / text.removeprefix(_SNIPPET).strip().strip('"') if text.startswith(_SNIPPET) else None
