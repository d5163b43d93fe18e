"""The descriptions of attributes in docstrings."""

from __future__ import annotations

from griffe import Docstring, DocstringSectionAttributes


def attributes(text: str) -> dict[str, str]:
    """Return each attribute's description, from a docstring in Google's style."""
    sections = Docstring(text, parser="google").parse()
    documented = [
        attribute
        for section in sections
        if isinstance(section, DocstringSectionAttributes)
        for attribute in section.value
    ]
    return {attribute.name: as_markdown(attribute.description) for attribute in documented}


def as_markdown(text: str) -> str:
    """Replace the double backticks of docstrings by Markdown's single backticks."""
    return text.replace("``", "`")
