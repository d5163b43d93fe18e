"""The `install` fixture of the plugin tests."""

from __future__ import annotations

from tests.plugins.conftest import install

__all__ = ["install"]
