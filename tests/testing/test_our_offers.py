"""Our own upscalers, styles and samplers pass the conformance kit."""

from __future__ import annotations

import pytest

from imagegen_core import Settings
from imagegen_core.testing import SamplerConformance, StyleConformance, UpscalerConformance


class TestLanczos(UpscalerConformance):
    upscaler = "lanczos"


class TestDemo(UpscalerConformance):
    upscaler = "demo"


class TestStorybook(StyleConformance):
    style = "storybook"

    @pytest.fixture(scope="class")
    @classmethod
    def settings(cls) -> Settings:
        return Settings(model="demo", device="cpu")


class TestLcm(SamplerConformance):
    sampler = "LCM"


class TestEulerAncestral(SamplerConformance):
    sampler = "Euler a"


class TestDpmSolver(SamplerConformance):
    sampler = "DPM++ 2M SDE Karras"
