"""Weights come into memory in the layout that they are computed in, and leave it with their tensors."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from imagegen_core import Settings
from imagegen_core.diffusion import weights_file
from imagegen_core.diffusion.host_tensor import host_tensor
from imagegen_core.diffusion.weights_file import WeightsFile
from imagegen_sdxl import DiffusersSDXLCudaWorker

KERNELS = {
    "3x3": torch.randn(7, 5, 3, 3),
    "1x1": torch.randn(6, 4, 1, 1),
    "one input": torch.randn(4, 1, 3, 3),
    "wide": torch.randn(3, 4000, 3, 3),
    "matrix": torch.randn(9, 5),
    "empty": torch.zeros(0, 4, 3, 3),
}


@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_a_kernel_is_read_in_channels_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, stored: torch.dtype, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(weights_file, "_CHUNK", 100)
    tensors = {name: tensor.to(stored) for name, tensor in KERNELS.items()}
    path = tmp_path / f"a.{suffix}"
    if suffix == "ckpt":
        tensors = {name: tensor.flip(0).mT.contiguous().mT for name, tensor in tensors.items()}  # with strides
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    with WeightsFile(path) as file:
        for name, tensor in tensors.items():
            expected = tensor.to(dtype)
            if tensor.ndim == 4:
                expected = expected.to(memory_format=torch.channels_last)
            read = file.read(name, dtype, channels_last=True)
            assert torch.equal(read, expected), name
            if name in ("3x3", "1x1", "wide"):  # torch would copy another layout
                assert read.to(memory_format=torch.channels_last) is read, name


def test_no_kernel_is_copied_after_it_is_read(sdxl_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: set[int] = set()
    original = WeightsFile.read

    def watched(self: WeightsFile, *arguments: Any, **options: Any) -> torch.Tensor:
        tensor = original(self, *arguments, **options)
        read.add(tensor.data_ptr())
        return tensor

    monkeypatch.setattr(WeightsFile, "read", watched)
    for dtype in ("fp32", "bf16"):
        settings = Settings(model=str(sdxl_checkpoint), device="cpu", dtype=dtype, recipe=False)
        worker = DiffusersSDXLCudaWorker(settings=settings)
        for network in (worker.pipe.unet, worker.pipe.vae):
            assert {parameter.data_ptr() for parameter in network.parameters()} <= read


def test_tensors_have_storages_of_their_own() -> None:
    shapes = [(0, 4), *((count, 3) for count in range(1, 100)), (2**18, 2), (2**16 + 1, 5)]
    with ThreadPoolExecutor(4) as pool:
        tensors = list(pool.map(lambda shape: host_tensor(shape, torch.float32).fill_(shape[0]), shapes))
    for tensor, shape in zip(tensors, shapes, strict=True):
        assert tensor.shape == shape
        assert (tensor == shape[0]).all()
        assert tensor.untyped_storage().nbytes() == tensor.nbytes
        assert tensor.data_ptr() % 64 == 0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_returns_to_the_system_with_the_last_tensor() -> None:
    def resident() -> int:
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return 1024 * int(fields["VmRSS"].split()[0])

    before = resident()
    tensors = [host_tensor((2**20,), torch.uint8).fill_(1) for _ in range(200)]
    assert resident() - before > 180 * 2**20
    del tensors
    gc.collect()
    assert resident() - before < 50 * 2**20
