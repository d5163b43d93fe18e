"""The backend of any pipeline passes the conformance kit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from imagegen_core import Settings
from imagegen_core.testing import BackendConformance
from tests.pipelines.conftest import settings_for


class TestZImage(BackendConformance):
    backend = "diffusers"

    @pytest.fixture(scope="class")
    @classmethod
    def settings(cls, folder: Callable[[str], Path]) -> Settings:
        return settings_for(folder("z-image"))
