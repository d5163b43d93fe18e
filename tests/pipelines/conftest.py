"""Tiny pipelines, and their workers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from imagegen_core import Settings
from tests.pipelines.checkpoints import PIPELINES


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that saves a pipeline once, and returns its folder."""
    return cache(lambda name: PIPELINES[name](tmp_path_factory.mktemp(name) / f"tiny-{name}"))


@pytest.fixture(scope="session")
def worker_of(folder: Callable[[str], Path]) -> Callable[[str], Any]:
    """Return a function that loads a pipeline's worker once."""
    from imagegen_diffusers import DiffusersPipelineWorker

    return cache(lambda name: DiffusersPipelineWorker(settings=settings_for(folder(name))))


def settings_for(folder: Path) -> Settings:
    return Settings(model=str(folder), device="cpu", dtype="fp32")
