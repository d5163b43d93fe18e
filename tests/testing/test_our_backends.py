"""Our own backends pass the conformance kit."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagegen_core import Settings
from imagegen_core.testing import BackendConformance
from tests.checkpoints import save_sdxl_refiner


class TestSdxl(BackendConformance):
    backend = "sdxl"

    @pytest.fixture(scope="class")
    @classmethod
    def settings(cls, sdxl_checkpoint: Path) -> Settings:
        return Settings(model=str(sdxl_checkpoint), device="cpu")


class TestSdxlDemo(BackendConformance):
    """The demo has a style, and its network is large enough for results that depend on the batch."""

    backend = "sdxl"

    @pytest.fixture(scope="class")
    @classmethod
    def settings(cls) -> Settings:
        return Settings(model="demo", device="cpu", dtype="fp32")


class TestSdxlRefiner(BackendConformance):
    backend = "sdxl-refiner"

    @pytest.fixture(scope="class")
    @classmethod
    def settings(cls, tmp_path_factory: pytest.TempPathFactory) -> Settings:
        checkpoint = save_sdxl_refiner(tmp_path_factory.mktemp("kit") / "tiny-refiner")
        return Settings(model=str(checkpoint), device="cpu", dtype="fp32")


class TestSd15(BackendConformance):
    backend = "sd15"

    @pytest.fixture(scope="class")
    @classmethod
    def settings(cls, sd15_checkpoint: Path) -> Settings:
        return Settings(model=str(sd15_checkpoint), device="cpu", dtype="fp32")


class TestSd3(BackendConformance):
    backend = "sd3"

    @pytest.fixture(scope="class")
    @classmethod
    def settings(cls, sd3_checkpoint: Path) -> Settings:
        return Settings(model=str(sd3_checkpoint), device="cpu", dtype="fp32")


class TestFlux(BackendConformance):
    backend = "flux"

    @pytest.fixture(scope="class")
    @classmethod
    def settings(cls, flux_checkpoint: Path) -> Settings:
        return Settings(model=str(flux_checkpoint), device="cpu", dtype="fp32")
