"""Core knows no family of checkpoints: its wheel has their names in the hint table alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import imagegen_core
from imagegen_core import Registry

CORE = Path(imagegen_core.__file__).parent
HINTS = CORE / "models/hints.py"
FAMILY = re.compile(
    r"sd[ _-]?xl|\bsd[ _-]?(?:1(?:\.?[45x])?|2(?:\.[01x])?|3(?:\.5)?)\b|stable[ _-]?diffusion|flux|pixart"
    r"|qwen|sana\b|kandinsky|auraflow|lumina|hunyuan|kolors|z[ _-]image|wuerstchen|playground|cosxl",
    re.IGNORECASE,
)
# Names of others: the contract's switch, A1111's repository, its options and its code, and the addresses of sources.
OTHERS = re.compile(
    r"use_sdxl|stable-diffusion-webui|\bsdxl_(?:crop|refiner)_\w+|StableDiffusionProcessing\w*|https?://\S+",
    re.IGNORECASE,
)


def _text(path: Path) -> str:
    """Return a file's text on one line, as a name may be broken between two lines of a comment."""
    return re.sub(r"\s+(?:# )?", " ", OTHERS.sub("", path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(CORE.rglob("*")) if path.suffix in (".py", ".tmpl", ".html", ".js", ".css", ".json")],
    ids=lambda path: path.relative_to(CORE).as_posix(),
)
def test_a_file_of_the_core_names_no_family(path: Path) -> None:
    if path != HINTS:
        assert FAMILY.findall(_text(path)) == []


def test_the_search_finds_every_declared_family() -> None:
    assert FAMILY.search(_text(HINTS))
    for family in Registry.discover().families.values():
        assert FAMILY.search(family.name)
        assert FAMILY.search(family.title)
