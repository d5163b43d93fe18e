"""The OpenVINO backend passes the conformance tests with the demo model."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagegen_core import Registry, Settings
from imagegen_core.testing import BackendConformance


class TestOpenVino(BackendConformance):
    backend = "openvino"

    @pytest.fixture(scope="class")
    @classmethod
    def settings(cls, tmp_path_factory: pytest.TempPathFactory) -> Settings:
        """Return settings with the exported demo model."""
        demo = Registry.discover().models.get("demo")
        if demo is None:
            pytest.skip("there is no checkpoint to export: pip install imagegen-demo")
        folder: Path = tmp_path_factory.mktemp("openvino") / "demo"
        pytest.importorskip(
            "imagegen_openvino.exporting", reason="pip install 'imagegen-openvino[export]'"
        ).export_checkpoint(demo.path, folder)
        return Settings(model=str(folder))
