"""Models that are loaded while others draw: what the libraries change for all threads, the others never see."""

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
def test_who_computes_meanwhile_never_sees_it(sdxl_checkpoint: Path, precision: str) -> None:
    """Many small looks while models are loaded: at the default precision, and at what a new layer is made of."""
    loading = threading.Event()
    seen: set[tuple[torch.dtype, str]] = set()

    def look() -> None:
        layer = nn.Linear(1, 1)
        seen.add((torch.get_default_dtype(), layer.weight.device.type))

    def looking() -> None:
        while not loading.is_set():
            undisturbed(look)

    thread = threading.Thread(target=looking)
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


def test_one_thread_may_build_within_what_it_builds_and_pass_within_what_it_passes() -> None:
    with building(), building():
        pass
    assert undisturbed(undisturbed, lambda: 7) == 7


def test_who_changes_waits_for_those_who_pass() -> None:
    crossing, inside, changed = ReadWriteLock(), threading.Event(), threading.Event()
    leave = threading.Event()

    def passing() -> None:
        with crossing.passing():
            inside.set()
            leave.wait(LIMIT)

    def changing() -> None:
        crossing.begin_change()
        changed.set()
        crossing.end_change()

    threads = [threading.Thread(target=passing), threading.Thread(target=changing)]
    threads[0].start()
    assert inside.wait(LIMIT)
    threads[1].start()
    assert not changed.wait(0.05)
    leave.set()
    assert changed.wait(LIMIT)
    for thread in threads:
        thread.join()
