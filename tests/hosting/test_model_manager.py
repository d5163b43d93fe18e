"""Several models under a budget: who is loaded when, who makes room, and what of it nobody notices."""

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
from imagegen_core.hosting.model_manager import ModelManager
from imagegen_core.worker import DeviceMemory
from imagegen_sdxl import DiffusersSDXLCudaWorker
from tests.engine.conftest import ask
from tests.engine.faults import Gate

LIMIT = 30
SIZE = 10


class Plain:
    """A worker without steps, whose pictures are its name; `drawing` holds it up."""

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


class ModelCache:
    """Models of plain workers, their loads in order, and gates for loading and drawing."""

    def __init__(self, **options: Any) -> None:
        self.loads: list[str] = []
        self.loading: dict[str, Gate] = {}
        self.drawing: dict[str, Gate] = {}
        self.broken: set[str] = set()
        self.manager = ModelManager(self._load, estimate=lambda _: SIZE, **options)

    def _load(self, key: str, _: Any) -> LocalEngine:
        self.loading.setdefault(key, Gate())(key)
        if key in self.broken:
            raise ModelLoadError(f"{key} is damaged: copy it anew")
        self.loads.append(key)
        return LocalEngine(Plain(key, self.drawing.setdefault(key, Gate())))

    def submit(self, key: str, **options: Any) -> Any:
        return self.manager.submit(key, ask(), **options)

    def draw(self, key: str) -> str:
        return str(self.submit(key).result(LIMIT).png.decode())

    def states(self) -> dict[str, str]:
        return {one.key: one.state for one in self.manager.tell()}


@pytest.fixture
def shelf() -> Iterator[Callable[..., ModelCache]]:
    made: list[ModelCache] = []

    def make(**options: Any) -> ModelCache:
        made.append(ModelCache(**options))
        return made[-1]

    yield make
    for one in made:
        for gate in (*one.loading.values(), *one.drawing.values()):
            gate.open()
        one.manager.close(drain=False)


def _until(condition: Callable[[], Any]) -> None:
    waiting = threading.Event()
    for _ in range(LIMIT * 200):
        if condition():
            return
        waiting.wait(0.005)
    raise AssertionError("it never came")


def test_the_one_used_longest_ago_makes_room(shelf: Callable[..., ModelCache]) -> None:
    some = shelf(budget=2 * SIZE)
    assert [some.draw(key) for key in ("a", "b", "a", "c")] == ["a", "b", "a", "c"]
    assert some.states() == {"a": "ready", "c": "ready"}
    assert some.loads == ["a", "b", "c"]
    assert some.draw("b") == "b"
    assert some.states() == {"c": "ready", "b": "ready"}
    assert (some.manager.loads, some.manager.unloads) == (4, 2)


def test_one_with_work_in_hand_stays_until_that_is_done(shelf: Callable[..., ModelCache]) -> None:
    some = shelf(budget=SIZE)
    some.draw("a")
    some.drawing["a"].shut()
    in_hand = some.submit("a")
    assert some.drawing["a"].reached.wait(LIMIT)
    coming, again = some.submit("b"), some.submit("a")
    _until(lambda: some.states() == {"b": "wanted", "a": "wanted"} or "leaving" in some.states().values())
    assert some.loads == ["a"]
    some.drawing["a"].open()
    assert [ticket.result(LIMIT).png for ticket in (in_hand, coming, again)] == [b"a", b"b", b"a"]
    assert some.loads[:2] == ["a", "b"]


def test_one_more_than_the_budget_is_loaded_where_it_is_alone(shelf: Callable[..., ModelCache]) -> None:
    some = shelf(budget=1)
    assert [some.draw(key) for key in ("a", "b")] == ["a", "b"]
    assert some.states() == {"b": "ready"}


def test_one_that_grows_has_others_make_room(shelf: Callable[..., ModelCache]) -> None:
    some = shelf(budget=3 * SIZE)
    assert [some.draw(key) for key in ("a", "b", "c")] == ["a", "b", "c"]
    some.manager.engine("c").worker.size = 2 * SIZE
    assert some.draw("c") == "c"
    _until(lambda: some.states() == {"b": "ready", "c": "ready"})
    assert {one.key: one.size for one in some.manager.tell()} == {"b": SIZE, "c": 2 * SIZE}
    assert some.draw("a") == "a"
    _until(lambda: some.states() == {"c": "ready", "a": "ready"})


def test_one_whose_engine_broke_is_loaded_anew(
    shelf: Callable[..., ModelCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    some = shelf(budget=SIZE)
    some.draw("a")
    monkeypatch.setattr(some.manager.engine("a"), "_step", lambda _: 1 / 0)
    with pytest.raises(EngineClosedError, match="The engine broke"):
        some.draw("a")
    _until(lambda: some.loads == ["a", "a"])  # before anybody asks
    assert some.draw("a") == "a"
    assert some.manager.report().broken == 0
    some.manager.engine("a")._break(ZeroDivisionError())  # type: ignore[union-attr] # while nobody looks
    assert some.draw("a") == "a"
    assert (some.loads, some.manager.unloads) == (["a", "a", "a"], 2)


def test_of_several_devices_the_fullest_counts() -> None:
    class On(Plain):
        def __init__(self, device: str, free: int, size: int) -> None:
            super().__init__(device, Gate())
            self.memory, self.size = DeviceMemory(device, 100, free), size

        def device_memory(self) -> DeviceMemory:
            return self.memory

    workers = [On("one", 40, 10), On("two", 30, 12), On("one", 40, 10)]
    manager = ModelManager(lambda *_: Pool(workers), estimate=lambda _: 0)
    try:
        manager.want("model").result(LIMIT)
        assert [one.size for one in manager.tell()] == [20]
        assert manager.budget == int(0.8 * (30 + 12))
    finally:
        manager.close(drain=False)


def test_without_a_budget_it_is_measured_of_what_the_device_had(shelf: Callable[..., ModelCache]) -> None:
    some = shelf()
    some.draw("a")
    assert some.manager.budget == int(0.8 * (40 + SIZE))


def test_a_load_that_fails_is_told_to_who_asked_and_tried_again(shelf: Callable[..., ModelCache]) -> None:
    some = shelf(budget=2 * SIZE)
    some.draw("a")
    some.broken.add("b")
    with pytest.raises(ModelLoadError, match="b is damaged: copy it anew"):
        some.draw("b")
    with pytest.raises(ModelLoadError, match="b is damaged"):
        some.manager.want("b").result(LIMIT)
    assert some.draw("a") == "a"
    assert some.states() == {"a": "ready"}
    some.broken.clear()
    assert some.draw("b") == "b"


def test_others_draw_while_one_is_loaded(shelf: Callable[..., ModelCache]) -> None:
    some = shelf(budget=2 * SIZE)
    some.draw("a")
    some.loading["b"] = Gate(shut=True)
    coming = some.submit("b")
    assert some.loading["b"].reached.wait(LIMIT)
    assert some.draw("a") == "a"
    assert not coming.done
    some.loading["b"].open()
    assert coming.result(LIMIT).png == b"b"


def test_what_waits_for_a_model_has_its_deadline_and_can_be_cancelled(shelf: Callable[..., ModelCache]) -> None:
    some = shelf()
    some.loading["a"] = Gate(shut=True)
    patient, late, cancelled = some.submit("a"), some.submit("a", deadline=0.05), some.submit("a")
    assert cancelled.cancel()
    with pytest.raises(DeadlineError):
        late.result(LIMIT)
    some.loading["a"].open()
    assert patient.result(LIMIT).png == b"a"
    _until(lambda: some.manager.report().running == 0)
    report = some.manager.report()
    assert (report.finished, report.waiting) == (1, 0)


def test_the_line_before_a_model_has_an_end(shelf: Callable[..., ModelCache]) -> None:
    some = shelf(queue_limit=1)
    some.loading["a"] = Gate(shut=True)
    some.submit("a")
    with pytest.raises(QueueFullError, match="1 requests wait for models to load"):
        some.submit("b")
    with pytest.raises(InvalidRequestError):
        some.manager.submit("b", ask(size="12by7"))
    assert list(some.states()) == ["a"]


def test_a_model_is_let_go_of_by_hand_but_not_with_work(shelf: Callable[..., ModelCache]) -> None:
    some = shelf()
    some.draw("a")
    some.drawing["a"].shut()
    in_hand = some.submit("a")
    assert not some.manager.unload("a")
    some.drawing["a"].open()
    in_hand.result(LIMIT)
    _until(lambda: some.manager.unload("a"))
    assert some.states() == {}
    assert not some.manager.unload("a")
    assert some.manager.report().finished == 2  # of an engine that is gone
    assert some.draw("a") == "a"


def test_those_that_are_no_longer_asked_for_go(shelf: Callable[..., ModelCache]) -> None:
    some = shelf()
    for key in ("a", "b", "c"):
        some.draw(key)
    some.manager.keep_only(["b"])
    _until(lambda: some.states() == {"b": "ready"})


def test_closing_gives_up_what_waits_for_a_model(shelf: Callable[..., ModelCache]) -> None:
    some = shelf()
    some.loading["a"] = Gate(shut=True)
    waiting = some.submit("a")
    assert some.loading["a"].reached.wait(LIMIT)
    some.manager.close(limit=0.01)
    with pytest.raises(EngineClosedError):
        waiting.result(LIMIT)
    with pytest.raises(EngineClosedError):
        some.submit("a")


def _worker(checkpoint: Path) -> Any:
    return DiffusersSDXLCudaWorker(settings=Settings(model=str(checkpoint), device="cpu", dtype="fp32", recipe=False))


def test_workers_side_by_side_compute_on_one_thread(sdxl_checkpoint: Path) -> None:
    first, second = _worker(sdxl_checkpoint), _worker(sdxl_checkpoint)
    request = GenerateRequest(prompt="a lake", seed=1, size="64x64")
    alone = second.run_job(Job(req=request))
    second.compute_beside(first)
    threads = {one.compute(threading.get_ident) for one in (first, second)}
    assert len(threads) == 1
    del first
    assert second.run_job(Job(req=request)) == alone


def test_what_a_worker_takes_is_its_weights(sdxl_checkpoint: Path) -> None:
    worker = _worker(sdxl_checkpoint)
    parts = (worker.pipe.unet, worker.pipe.vae, worker.pipe.text_encoder, worker.pipe.text_encoder_2)
    weights = sum(tensor.nbytes for part in parts for tensor in part.state_dict().values())
    assert weights <= worker.memory_bytes() < 1.05 * weights
    worker.pipe.text_encoder_2.get_input_embeddings().weight = worker.pipe.text_encoder.get_input_embeddings().weight
    assert weight_bytes(worker.pipe) < weights
    assert worker.device_memory().total >= worker.device_memory().free > 0


def test_a_worker_that_is_dropped_frees_its_memory_without_the_collector(sdxl_checkpoint: Path) -> None:
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
