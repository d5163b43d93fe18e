"""torch's global switches stay as they were at load, and cuDNN's unsteady choices are off for exact pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.backends import cuda, cudnn

from imagegen_core import GenerateRequest, Job, Settings
from imagegen_core.diffusion.switches import Switches
from imagegen_sdxl import DiffusersSDXLCudaWorker

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Restore the switches; torch has them without CUDA, too."""
    every = [Switches(device, "fast") for device in (CUDA, CPU)]
    yield
    for switches in every:
        switches.hold()


@pytest.mark.parametrize(("batching", "kept"), [("exact", False), ("fast", True)])
def test_exact_pictures_use_neither_cudnns_benchmark_nor_its_attention(batching: Any, kept: bool) -> None:
    cudnn.benchmark = True
    switches = Switches(CUDA, batching)
    switches.hold()
    assert (cudnn.benchmark, cuda.cudnn_sdp_enabled()) == (kept, kept)
    assert cuda.flash_sdp_enabled()
    assert cuda.mem_efficient_sdp_enabled()


CHANGES = {
    "float32_products": lambda: torch.set_float32_matmul_precision("medium"),
    "tf32_convolutions": lambda: setattr(cudnn, "allow_tf32", False),
    "fp16_sums": lambda: setattr(cuda.matmul, "allow_fp16_reduced_precision_reduction", (False, False)),
    "bf16_sums": lambda: setattr(cuda.matmul, "allow_bf16_reduced_precision_reduction", (False, False)),
    "cudnn_benchmark": lambda: setattr(cudnn, "benchmark", True),
    "deterministic": lambda: torch.use_deterministic_algorithms(True),
    "flash_attention": lambda: cuda.enable_flash_sdp(False),
    "efficient_attention": lambda: cuda.enable_mem_efficient_sdp(False),
    "cudnn_attention": lambda: cuda.enable_cudnn_sdp(True),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_later_change_is_set_back_with_a_warning(name: str, caplog: pytest.LogCaptureFixture) -> None:
    switches = Switches(CUDA, "exact")
    assert set(CHANGES) == set(switches.values)
    switches.hold()
    CHANGES[name]()
    assert Switches(CUDA, "fast").values != switches.values
    assert not caplog.messages
    switches.hold()
    CHANGES[name]()
    switches.hold()
    assert Switches(CUDA, "fast").values == switches.values
    (message,) = caplog.messages
    assert message.startswith(f"The program changed torch's switches ({name}) after a model was loaded")


def test_a_switch_from_before_the_load_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    cuda.matmul.allow_fp16_reduced_precision_reduction = (False, False)  # type: ignore[assignment]
    switches = Switches(CUDA, "exact")
    switches.hold()
    cuda.matmul.allow_fp16_reduced_precision_reduction = True
    switches.hold()
    assert Switches(CUDA, "fast").values["fp16_sums"] == (False, False)


def test_a_picture_does_not_depend_on_a_later_switch(sdxl_checkpoint: Path) -> None:
    worker = DiffusersSDXLCudaWorker(settings=Settings(model=str(sdxl_checkpoint), device="cpu", dtype="fp32"))
    job = Job(req=GenerateRequest(prompt="a lake", seed=1, num_inference_steps=2, size="64x64"))
    before = worker.run_job(job)
    torch.backends.mkldnn.enabled = False
    assert worker.run_job(job) == before
    assert torch.backends.mkldnn.enabled
    assert worker.numerics.flags == {"float32_products": "highest", "onednn": True}
