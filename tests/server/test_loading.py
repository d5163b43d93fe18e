"""Loading engines: the number of workers, their devices and their neighbours."""

from __future__ import annotations

from typing import Any

import pytest

from imagegen_core import Job, LocalEngine, Settings, SettingsError
from imagegen_core.engine import Pool
from imagegen_core.hosting import engine_loader
from imagegen_core.plugins.registry import Registry
from imagegen_core.server import create_app
from imagegen_core.worker import DeviceMemory
from imagegen_demo import plugin as demo


class Placed:
    """A worker that records its settings, and the worker that it computes beside."""

    worker_id = 0

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.beside: Any = None

    def run_job(self, job: Job) -> tuple[bytes, int]:
        return b"", 0

    def run_job_with_latents(self, job: Job) -> tuple[bytes, int, bytes]:
        return b"", 0, b""

    def memory_bytes(self) -> int:
        return 1

    def device_memory(self) -> DeviceMemory:
        return DeviceMemory(str(self.settings.device), 2, 1)

    def compute_beside(self, other: Any) -> None:
        self.beside = other


@pytest.fixture
def _placed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_loader, "load_worker", Placed)


@pytest.mark.parametrize(
    ("environ", "devices"),
    [
        ({}, [None]),
        ({"NUM_WORKERS": "2"}, [None, None]),
        ({"CUDA_DEVICE": "cuda:1"}, ["cuda:1"]),
        ({"CUDA_DEVICE": "cuda:0,cuda:1"}, ["cuda:0", "cuda:1"]),
        ({"CUDA_DEVICE": "cpu,cpu"}, ["cpu", "cpu"]),
        ({"CUDA_DEVICE": "a,b", "NUM_WORKERS": "2"}, ["a", "b"]),
        ({"CUDA_DEVICE": "a,b", "NUM_WORKERS": "5"}, ["a", "b", "a", "b", "a"]),
    ],
    ids=str,
)
@pytest.mark.usefixtures("_placed")
def test_copies_are_distributed_to_the_devices_in_turn(environ: dict[str, str], devices: list[str | None]) -> None:
    engine = engine_loader.load_engine(Settings.load(environ=environ))
    workers: Any = engine.workers
    engine.close()
    assert [worker.settings.device for worker in workers] == devices
    assert isinstance(engine, Pool if len(devices) > 1 else LocalEngine)


def test_fewer_copies_than_devices_are_refused_before_loading() -> None:
    settings = Settings.load(environ={"CUDA_DEVICE": "cuda:0,cuda:1,cuda:2", "NUM_WORKERS": "2"})
    with pytest.raises(SettingsError) as caught:
        create_app(settings)
    assert str(caught.value) == (
        "NUM_WORKERS=2 is fewer than the 3 devices of CUDA_DEVICE=cuda:0,cuda:1,cuda:2, each of which needs a copy of "
        "the model: raise it to 3, unset it for one a device, or name fewer devices"
    )


@pytest.mark.usefixtures("_placed")
def test_worker_computes_beside_a_worker_of_the_same_device() -> None:
    first: Any = engine_loader.load_engine(Settings(device="a,b,a"))
    second: Any = engine_loader.load_engine(Settings(device="b,a,c,a,a"), [first])
    for engine in (first, second):
        engine.close()
    a, b, another_a = first.workers
    assert [worker.beside for worker in second.workers] == [b, a, None, another_a, None]


@pytest.mark.usefixtures("_placed")
def test_worker_computes_beside_the_latest_model_of_its_device() -> None:
    latest: Any = engine_loader.load_engine(Settings(device="a"))
    earlier: Any = engine_loader.load_engine(Settings(device="a,b"))
    loaded: Any = engine_loader.load_engine(Settings(device="a,b,a"), [latest, earlier])
    for engine in (latest, earlier, loaded):
        engine.close()
    assert [worker.beside for worker in loaded.workers] == [latest.worker, earlier.workers[1], None]


def test_weights_count_every_copy_on_one_device() -> None:
    registry = Registry.discover()
    copy_bytes = engine_loader.weights_bytes(Settings(model="demo"), registry)
    assert copy_bytes == sum(file.stat().st_size for file in _demo_weights())
    cases: list[tuple[dict[str, Any], int]] = [
        ({"device": "a,b"}, 1),
        ({"device": "a,b", "num_workers": 3}, 2),
        ({"device": "cpu,cpu"}, 2),
        ({"num_workers": 3}, 3),
    ]
    for settings, copies in cases:
        assert engine_loader.weights_bytes(Settings(model="demo", **settings), registry) == copies * copy_bytes


def _demo_weights() -> list[Any]:
    (model,) = demo.imagegen_models()
    return [file for file in model.path.rglob("*") if file.suffix == ".safetensors"]
