"""The pinned releases and the hashes of their files."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def _pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pins = (line.partition("==") for line in lines if re.match(r"[A-Za-z]", line))
    return {re.sub(r"[-_.]+", "-", name).lower(): version.removesuffix(" \\") for name, _, version in pins}


def test_the_hashes_belong_to_the_pinned_releases() -> None:
    """`nox -s lock` updates the hashes."""
    assert _pins("requirements.lock") == _pins("constraints.txt")


def test_each_release_has_hashes() -> None:
    """pip's --require-hashes needs them: https://pip.pypa.io/en/stable/topics/secure-installs."""
    text = re.sub(r"(?m)^#.*\n", "", (ROOT / "requirements.lock").read_text(encoding="utf-8")).replace("\\\n", "")
    for line in text.splitlines():
        assert re.fullmatch(r"\S+==\S+(\s+--hash=sha256:[0-9a-f]{64})+\s*", line), line[:60]
