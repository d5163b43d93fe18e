"""The settings of the checked object."""

from __future__ import annotations

import pytest

from imagegen_core.settings import Settings


class Configured:
    """The base of kits whose subject is made from `Settings`."""

    @pytest.fixture(scope="class")
    @classmethod
    def settings(cls) -> Settings:
        """Load the environment and ``imagegen.toml``, unless a test class overrides this."""
        return Settings.load()
