"""The repository's own files as pages, with links to pages."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "RELEASING.md": "releasing.md",
    "CHANGELOG.md": "changes.md",
    "SECURITY.md": "security.md",
}
# The page that explains a source file, for links to the file.
_EXPLAINED = {
    "src/imagegen_core/worker.py": "reference/python.md#imagegen_core.Worker",
    "src/imagegen_core/plugins/hookspecs.py": "reference/python.md#hooks",
}
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")


def pages(root: Path) -> dict[str, str]:
    """Return the text of each page."""
    return {page: as_page((root / name).read_text(encoding="utf-8")) for name, page in _PAGES.items()}


def as_page(text: str) -> str:
    """Return the text with links that work on the site; a file outside the site is named instead of linked."""
    return _LINK.sub(_linked, text)


def _linked(link: re.Match[str]) -> str:
    target = link["target"]
    if target.startswith(("http://", "https://", "#")):
        return link[0]
    path = posixpath.normpath(target)
    page = path.removeprefix("docs/") if path.startswith("docs/") else _PAGES.get(path) or _EXPLAINED.get(path)
    return f"{link['image']}[{link['text']}]({page})" if page else f"{link['text']} (`{path}`)"
