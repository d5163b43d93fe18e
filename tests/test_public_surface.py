"""The surface for plugins and applications changes only by decision."""

from __future__ import annotations

import difflib
from pathlib import Path

from tests.public_surface import surface

RECORD = Path(__file__).with_name("public_surface.txt")


def test_the_public_surface_equals_the_record() -> None:
    recorded = RECORD.read_text(encoding="utf-8").splitlines()
    changes = list(difflib.unified_diff(recorded, surface().splitlines(), "recorded", "now", lineterm="", n=1))
    assert not changes, "\n".join(
        [
            "The public surface has changed. Is this intended, and does the contract's version fit (docs/plugins.md)?",
            "If so, record it: python -m tests.public_surface > tests/public_surface.txt",
            *changes,
        ]
    )
