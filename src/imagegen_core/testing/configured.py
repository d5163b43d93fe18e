"""How what is checked is configured."""

from __future__ import annotations

import pytest

from imagegen_core.settings import Settings


class Configured:
    """For the kits whose subject is made from `Settings`."""

    @pytest.fixture(scope="class")
    @classmethod
    def settings(cls) -> Settings:
        """By the environment and ``imagegen.toml``, unless a test class overrides it."""
        return Settings.load()
