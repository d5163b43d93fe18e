"""Plugins for tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugins.installed import Installer


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installer:
    """An installer of plugins for one test, which sees no other plugins."""
    return Installer(tmp_path / "site-packages", monkeypatch)
