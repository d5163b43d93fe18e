"""Workers for the engine tests, and engines that are closed after each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from imagegen_core import GenerateRequest, LocalEngine, Settings, load_worker
from imagegen_sdxl import DiffusersSDXLCudaWorker

StartEngine = Callable[..., LocalEngine]


@pytest.fixture(scope="session")
def worker(sdxl_checkpoint: Path) -> Any:
    return DiffusersSDXLCudaWorker(
        settings=Settings(model=str(sdxl_checkpoint), device="cpu", dtype="fp32", recipe=False)
    )


@pytest.fixture(scope="session")
def demo_worker() -> Any:
    return load_worker(settings=Settings(model="demo", device="cpu", dtype="fp32", recipe=False))


@pytest.fixture
def start() -> Iterator[StartEngine]:
    """Start engines; after the test, close them and cancel their open requests."""
    with ExitStack() as stack:

        def start_engine(worker: Any, **options: Any) -> LocalEngine:
            engine = LocalEngine(worker, **options)
            stack.callback(engine.close, drain=False)
            return engine

        yield start_engine


def ask(prompt: str = "a lake", **fields: Any) -> GenerateRequest:
    """A request for a small picture."""
    return GenerateRequest(**{"prompt": prompt, "seed": 1, "size": "64x64", **fields})
