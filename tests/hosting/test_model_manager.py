"""Several models within a memory budget: loading, unloading, waiting requests and failures."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from imagegen_core import (
    DeadlineError,
    EngineClosedError,
    GenerateRequest,
    InvalidRequestError,
    Job,
    LocalEngine,
    ModelLoadError,
    QueueFullError,
    Settings,
)
from imagegen_core.diffusion.memory import weight_bytes
from imagegen_core.engine import Pool
from imagegen_core.hosting import model_manager
from imagegen_core.hosting.model_manager import ModelManager
from imagegen_core.worker import DeviceMemory
from imagegen_sdxl import DiffusersSDXLCudaWorker
from tests.engine.conftest import ask
from tests.engine.faults import Gate

LIMIT = 30
SIZE = 10


class Plain:
    """A worker without steps, whose pictures are its name; `drawing` blocks it."""

    worker_id = 0

    def __init__(self, name: str, drawing: Gate) -> None:
        self.name, self.drawing, self.size = name, drawing, SIZE

    def run_job(self, job: Job) -> tuple[bytes, int]:
        self.drawing(job)
        return self.name.encode(), 0

    def run_job_with_latents(self, job: Job) -> tuple[bytes, int, bytes]:
        return (*self.run_job(job), b"")

    def memory_bytes(self) -> int:
        return self.size

    def device_memory(self) -> DeviceMemory:
        return DeviceMemory("none", 100, 40)


class PlainModels:
    """A manager of plain workers, with the order of their loads, and gates for loading and drawing."""

    def __init__(self, **options: Any) -> None:
        self.loads: list[str] = []
        self.loading: dict[str, Gate] = {}
        self.drawing: dict[str, Gate] = {}
        self.broken: set[str] = set()
        self.manager = ModelManager(self._load, estimate=lambda _: SIZE, **options)

    def _load(self, key: str, _: Any) -> LocalEngine:
        self.loading.setdefault(key, Gate())(key)
        if key in self.broken:
            raise ModelLoadError(f"{key} is damaged: copy it again")
        self.loads.append(key)
        return LocalEngine(Plain(key, self.drawing.setdefault(key, Gate())))

    def submit(self, key: str, **options: Any) -> Any:
        return self.manager.submit(key, ask(), **options)

    def draw(self, key: str) -> str:
        return str(self.submit(key).result(LIMIT).png.decode())

    def states(self) -> dict[str, str]:
        return {entry.key: entry.state for entry in self.manager.tell()}


CreateModels = Callable[..., PlainModels]


@pytest.fixture
def create_models() -> Iterator[CreateModels]:
    created: list[PlainModels] = []

    def create(**options: Any) -> PlainModels:
        created.append(PlainModels(**options))
        return created[-1]

    yield create
    for models in created:
        for gate in (*models.loading.values(), *models.drawing.values()):
            gate.open()
        models.manager.close(drain=False)


def _until(condition: Callable[[], Any]) -> None:
    waiting = threading.Event()
    for _ in range(LIMIT * 200):
        if condition():
            return
        waiting.wait(0.005)
    raise AssertionError("the condition never held")


def test_the_least_recently_used_model_is_unloaded(create_models: CreateModels) -> None:
    models = create_models(budget=2 * SIZE)
    assert [models.draw(key) for key in ("a", "b", "a", "c")] == ["a", "b", "a", "c"]
    assert models.states() == {"a": "ready", "c": "ready"}
    assert models.loads == ["a", "b", "c"]
    assert models.draw("b") == "b"
    assert models.states() == {"c": "ready", "b": "ready"}
    assert (models.manager.loads, models.manager.unloads) == (4, 2)


def test_a_model_is_unloaded_after_its_open_requests(create_models: CreateModels) -> None:
    models = create_models(budget=SIZE)
    models.draw("a")
    models.drawing["a"].shut()
    running = models.submit("a")
    assert models.drawing["a"].reached.wait(LIMIT)
    waiting, later = models.submit("b"), models.submit("a")
    _until(lambda: models.states() == {"b": "wanted", "a": "wanted"} or "leaving" in models.states().values())
    assert models.loads == ["a"]
    models.drawing["a"].open()
    assert [ticket.result(LIMIT).png for ticket in (running, waiting, later)] == [b"a", b"b", b"a"]
    assert models.loads[:2] == ["a", "b"]


def test_a_model_larger_than_the_budget_is_loaded_alone(create_models: CreateModels) -> None:
    models = create_models(budget=1)
    assert [models.draw(key) for key in ("a", "b")] == ["a", "b"]
    assert models.states() == {"b": "ready"}


def test_a_growing_model_unloads_other_models(create_models: CreateModels) -> None:
    models = create_models(budget=3 * SIZE)
    assert [models.draw(key) for key in ("a", "b", "c")] == ["a", "b", "c"]
    models.manager.engine("c").worker.size = 2 * SIZE
    assert models.draw("c") == "c"
    _until(lambda: models.states() == {"b": "ready", "c": "ready"})
    assert {entry.key: entry.size for entry in models.manager.tell()} == {"b": SIZE, "c": 2 * SIZE}
    assert models.draw("a") == "a"
    _until(lambda: models.states() == {"c": "ready", "a": "ready"})


def test_a_model_makes_room_when_the_keeper_is_late(
    create_models: CreateModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keeper sees the request only after it has closed another model, and nothing wakes it again."""
    models, closed = create_models(budget=3 * SIZE), Gate()
    assert [models.draw(key) for key in ("a", "b", "c")] == ["a", "b", "c"]
    closed.shut()
    monkeypatch.setattr(model_manager.logger, "info", closed)  # its last word about a closed model
    models.manager.engine("c").worker.size = 2 * SIZE
    assert models.draw("c") == "c"
    assert closed.reached.wait(LIMIT)
    ticket = models.submit("a")
    closed.open()
    assert ticket.result(LIMIT).png == b"a"


def test_a_model_with_a_broken_engine_is_loaded_again(
    create_models: CreateModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = create_models(budget=SIZE)
    models.draw("a")
    monkeypatch.setattr(models.manager.engine("a"), "_step", lambda _: 1 / 0)
    with pytest.raises(EngineClosedError, match="The engine broke"):
        models.draw("a")
    _until(lambda: models.loads == ["a", "a"])  # before the next request
    assert models.draw("a") == "a"
    assert models.manager.report().broken == 0
    models.manager.engine("a")._break(ZeroDivisionError())  # type: ignore[union-attr] # between two requests
    assert models.draw("a") == "a"
    assert (models.loads, models.manager.unloads) == (["a", "a", "a"], 2)


def test_the_fullest_of_several_devices_counts() -> None:
    class OnDevice(Plain):
        def __init__(self, device: str, free: int, size: int) -> None:
            super().__init__(device, Gate())
            self.memory, self.size = DeviceMemory(device, 100, free), size

        def device_memory(self) -> DeviceMemory:
            return self.memory

    workers = [OnDevice("one", 40, 10), OnDevice("two", 30, 12), OnDevice("one", 40, 10)]
    manager = ModelManager(lambda *_: Pool(workers), estimate=lambda _: 0)
    try:
        manager.want("model").result(LIMIT)
        assert [entry.size for entry in manager.tell()] == [20]
        assert manager.budget == int(0.8 * (30 + 12))
    finally:
        manager.close(drain=False)


def test_the_default_budget_is_measured_from_the_free_memory(create_models: CreateModels) -> None:
    models = create_models()
    models.draw("a")
    assert models.manager.budget == int(0.8 * (40 + SIZE))


def test_a_failed_load_fails_its_requests_and_is_tried_again(create_models: CreateModels) -> None:
    models = create_models(budget=2 * SIZE)
    models.draw("a")
    models.broken.add("b")
    with pytest.raises(ModelLoadError, match="b is damaged: copy it again"):
        models.draw("b")
    with pytest.raises(ModelLoadError, match="b is damaged"):
        models.manager.want("b").result(LIMIT)
    assert models.draw("a") == "a"
    assert models.states() == {"a": "ready"}
    models.broken.clear()
    assert models.draw("b") == "b"


def test_other_models_draw_while_a_model_loads(create_models: CreateModels) -> None:
    models = create_models(budget=2 * SIZE)
    models.draw("a")
    models.loading["b"] = Gate(shut=True)
    waiting = models.submit("b")
    assert models.loading["b"].reached.wait(LIMIT)
    assert models.draw("a") == "a"
    assert not waiting.done
    models.loading["b"].open()
    assert waiting.result(LIMIT).png == b"b"


def test_requests_that_wait_for_a_model_can_expire_or_be_cancelled(create_models: CreateModels) -> None:
    models = create_models()
    models.loading["a"] = Gate(shut=True)
    patient, late, cancelled = models.submit("a"), models.submit("a", deadline=0.05), models.submit("a")
    assert cancelled.cancel()
    with pytest.raises(DeadlineError):
        late.result(LIMIT)
    models.loading["a"].open()
    assert patient.result(LIMIT).png == b"a"
    _until(lambda: models.manager.report().running == 0)
    report = models.manager.report()
    assert (report.finished, report.waiting) == (1, 0)


def test_the_number_of_requests_that_wait_for_models_is_limited(create_models: CreateModels) -> None:
    models = create_models(queue_limit=1)
    models.loading["a"] = Gate(shut=True)
    models.submit("a")
    with pytest.raises(QueueFullError, match="1 requests wait for models to load"):
        models.submit("b")
    with pytest.raises(InvalidRequestError):
        models.manager.submit("b", ask(size="12by7"))
    assert list(models.states()) == ["a"]


def test_a_model_is_unloaded_on_demand_unless_it_has_requests(create_models: CreateModels) -> None:
    models = create_models()
    models.draw("a")
    models.drawing["a"].shut()
    running = models.submit("a")
    assert not models.manager.unload("a")
    models.drawing["a"].open()
    running.result(LIMIT)
    _until(lambda: models.manager.unload("a"))
    assert models.states() == {}
    assert not models.manager.unload("a")
    assert models.manager.report().finished == 2  # by an unloaded engine
    assert models.draw("a") == "a"


def test_keep_only_unloads_all_other_models(create_models: CreateModels) -> None:
    models = create_models()
    for key in ("a", "b", "c"):
        models.draw(key)
    models.manager.keep_only(["b"])
    _until(lambda: models.states() == {"b": "ready"})


def test_closing_fails_requests_that_wait_for_a_model(create_models: CreateModels) -> None:
    models = create_models()
    models.loading["a"] = Gate(shut=True)
    waiting = models.submit("a")
    assert models.loading["a"].reached.wait(LIMIT)
    models.manager.close(limit=0.01)
    with pytest.raises(EngineClosedError):
        waiting.result(LIMIT)
    with pytest.raises(EngineClosedError):
        models.submit("a")


def _worker(checkpoint: Path) -> Any:
    return DiffusersSDXLCudaWorker(settings=Settings(model=str(checkpoint), device="cpu", dtype="fp32", recipe=False))


def test_workers_with_a_shared_thread_compute_on_it(sdxl_checkpoint: Path) -> None:
    first, second = _worker(sdxl_checkpoint), _worker(sdxl_checkpoint)
    request = GenerateRequest(prompt="a lake", seed=1, size="64x64")
    alone = second.run_job(Job(req=request))
    second.compute_beside(first)
    threads = {worker.compute(threading.get_ident) for worker in (first, second)}
    assert len(threads) == 1
    del first
    assert second.run_job(Job(req=request)) == alone


def test_a_workers_memory_is_that_of_its_weights(sdxl_checkpoint: Path) -> None:
    worker = _worker(sdxl_checkpoint)
    parts = (worker.pipe.unet, worker.pipe.vae, worker.pipe.text_encoder, worker.pipe.text_encoder_2)
    weights = sum(tensor.nbytes for part in parts for tensor in part.state_dict().values())
    assert weights <= worker.memory_bytes() < 1.05 * weights
    worker.pipe.text_encoder_2.get_input_embeddings().weight = worker.pipe.text_encoder.get_input_embeddings().weight
    assert weight_bytes(worker.pipe) < weights
    assert worker.device_memory().total >= worker.device_memory().free > 0


def test_a_dropped_worker_frees_its_memory_without_garbage_collection(sdxl_checkpoint: Path) -> None:
    worker = _worker(sdxl_checkpoint)
    with LocalEngine(worker, previews=True) as engine:
        engine.submit(ask()).result(LIMIT)
    weights: list[weakref.ref[torch.Tensor]] = [weakref.ref(weight) for weight in worker.pipe.unet.parameters()]
    gc.collect()
    gc.disable()
    try:
        del worker, engine
        _until(lambda: not any(weight() is not None for weight in weights))
    finally:
        gc.enable()
