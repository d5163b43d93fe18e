"""The libraries change settings of all threads to load a model; other threads never see the change."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from imagegen_core import GenerateRequest, Job, Settings
from imagegen_core.diffusion.construction_lock import ReadWriteLock, building, undisturbed
from imagegen_sdxl import DiffusersSDXLCudaWorker

LIMIT = 30


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_computing_threads_never_see_the_changed_settings(sdxl_checkpoint: Path, precision: str) -> None:
    """Check the default dtype and a new layer's device many times while models load."""
    loading = threading.Event()
    seen: set[tuple[torch.dtype, str]] = set()

    def look() -> None:
        layer = nn.Linear(1, 1)
        seen.add((torch.get_default_dtype(), layer.weight.device.type))

    def look_repeatedly() -> None:
        while not loading.is_set():
            undisturbed(look)

    thread = threading.Thread(target=look_repeatedly)
    thread.start()
    try:
        settings = Settings(model=str(sdxl_checkpoint), device="cpu", dtype=precision)
        workers = [DiffusersSDXLCudaWorker(settings=settings) for _ in range(3)]
    finally:
        loading.set()
        thread.join()
    assert seen == {(torch.float32, "cpu")}
    assert {worker.pipe.unet.dtype for worker in workers} == {workers[0].dtype}
    workers[-1].run_job(Job(req=GenerateRequest(prompt="a star", seed=1, num_inference_steps=1)))


def test_one_thread_may_nest_building_and_undisturbed() -> None:
    with building(), building():
        pass
    assert undisturbed(undisturbed, lambda: 7) == 7


def test_a_change_waits_for_passing_threads() -> None:
    lock, inside, changed = ReadWriteLock(), threading.Event(), threading.Event()
    leave = threading.Event()

    def hold() -> None:
        with lock.passing():
            inside.set()
            leave.wait(LIMIT)

    def change() -> None:
        lock.begin_change()
        changed.set()
        lock.end_change()

    threads = [threading.Thread(target=hold), threading.Thread(target=change)]
    threads[0].start()
    assert inside.wait(LIMIT)
    threads[1].start()
    assert not changed.wait(0.05)
    leave.set()
    assert changed.wait(LIMIT)
    for thread in threads:
        thread.join()
