"""SECURITY.md and the page on proxies name existing settings, with their defaults."""

from __future__ import annotations

import re

import pytest

from imagegen_core import Settings
from tests.docs.fences import ROOT

_VARIABLE = re.compile(r"`IMAGEGEN_([A-Z_]+)`")
_SHOWN = {2**20: "1 MiB", 2**25: "32 MiB", 2**30: "1 GiB", 2048**2: "2048 × 2048", None: "no limit"}


@pytest.mark.parametrize("page", ["SECURITY.md", "docs/proxy.md"])
def test_every_named_setting_exists(page: str) -> None:
    named = {name.lower() for name in _VARIABLE.findall((ROOT / page).read_text(encoding="utf-8"))}
    assert named
    assert named <= Settings.model_fields.keys()


def test_the_table_of_limits_states_the_defaults() -> None:
    limits = (ROOT / "SECURITY.md").read_text(encoding="utf-8").partition("## Limits")[2]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in limits.splitlines() if "`IMAGEGEN_" in row]
    assert len(rows) > 10
    for _, settings, shown in rows:
        values = re.split(r", | and ", re.sub(r"(?<=\d),(?=\d)", "", shown))
        for name, value in zip(_VARIABLE.findall(settings), values, strict=True):
            default = Settings.model_fields[name.lower()].default
            if name != "MEMORY_BUDGET":  # its default depends on the device
                assert value == _SHOWN.get(default, str(default)), name
