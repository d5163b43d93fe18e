"""Models beside a worker that reports neither its memory nor a compute thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from imagegen_core import Job, LocalEngine, Registry, Settings
from imagegen_core.hosting.model_host import LocalModelHost
from imagegen_core.worker import DeviceMemory

MEMORY = DeviceMemory("none", 100, 40)


class Plain:
    """A worker that reports nothing."""

    worker_id = 0

    def run_job(self, job: Job) -> tuple[bytes, int]:
        return b"", 0

    def run_job_with_latents(self, job: Job) -> tuple[bytes, int, bytes]:
        return b"", 0, b""


class Reporting(Plain):
    """A worker that reports its memory, and counts its computations."""

    computations = 0

    def memory_bytes(self) -> int:
        return 10

    def device_memory(self) -> DeviceMemory:
        return MEMORY

    def compute(self, function: Callable[..., Any], *arguments: Any) -> Any:
        self.computations += 1
        return function(*arguments)


@pytest.fixture
def host() -> Iterator[LocalModelHost]:
    host = LocalModelHost(Settings(), Registry.discover())
    yield host
    host.close(limit=10)


def _adopt(host: LocalModelHost, name: str, worker: Any) -> LocalEngine:
    engine = LocalEngine(worker)
    host.adopt(SimpleNamespace(key=name, settings=Settings(), loras=()), engine)  # type: ignore[arg-type]
    return engine


@pytest.mark.parametrize("order", [(Reporting, Plain), (Plain, Reporting)], ids=["plain last", "plain first"])
def test_a_worker_that_does_not_report_memory_hides_no_other(host: LocalModelHost, order: tuple[type, type]) -> None:
    engines = [_adopt(host, worker.__name__, worker()) for worker in order]
    [report] = host.hosts()
    assert report.memories == (MEMORY,)
    assert {entry.key: entry.size for entry in report.entries} == {"Reporting": 10, "Plain": 0}  # type: ignore[comparison-overlap]
    for engine in engines:
        engine.close()


def test_other_computations_use_a_compute_thread_of_any_model(host: LocalModelHost) -> None:
    reporting = Reporting()
    engines = [_adopt(host, "reporting", reporting), _adopt(host, "plain", Plain())]
    assert host._compute(sum, [1, 2]) == 3
    assert reporting.computations == 1
    for engine in engines:
        engine.close()
