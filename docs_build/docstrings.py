"""What docstrings say of attributes."""

from __future__ import annotations

from griffe import Docstring, DocstringSectionAttributes


def attributes(text: str) -> dict[str, str]:
    """Each attribute's description, from a docstring in Google's style."""
    sections = Docstring(text, parser="google").parse()
    found = [one for section in sections if isinstance(section, DocstringSectionAttributes) for one in section.value]
    return {one.name: as_markdown(one.description) for one in found}


def as_markdown(text: str) -> str:
    """Docstrings' literals with Markdown's single backticks."""
    return text.replace("``", "`")
