"""Truncated or overwritten weights files do not end the process, neither during loading nor later."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from imagegen_core import GenerateRequest, Job, ModelLoadError, Settings
from imagegen_core.diffusion import weights_file
from imagegen_core.diffusion.weights_file import WeightsFile
from imagegen_sdxl import DiffusersSDXLCudaWorker
from tests.layouts import save_single_file

FORMS = ["folder", "model.safetensors", "model.ckpt"]


@pytest.fixture
def saved(sdxl_checkpoint: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A checkpoint in the form of the test's parameter."""
    if request.param == "folder":
        return Path(shutil.copytree(sdxl_checkpoint, tmp_path / "folder"))
    pipeline = diffusers.StableDiffusionXLPipeline.from_pretrained(sdxl_checkpoint, local_files_only=True)
    return save_single_file(pipeline, tmp_path / request.param)


def _weights(checkpoint: Path) -> list[Path]:
    return [checkpoint] if checkpoint.is_file() else sorted(checkpoint.rglob("*.safetensors"))


def _load(checkpoint: Path, base: Path) -> Any:
    return DiffusersSDXLCudaWorker(
        settings=Settings(model=str(checkpoint), base_model=base, device="cpu", dtype="fp32", recipe=False)
    )


def _draw(worker: Any) -> bytes:
    png, _ = worker.run_job(Job(req=GenerateRequest(prompt="a lake", seed=1, num_inference_steps=1)))
    return png  # type: ignore[no-any-return]


@pytest.mark.parametrize("saved", FORMS, indirect=True)
def test_a_loaded_model_does_not_depend_on_its_files(saved: Path, sdxl_checkpoint: Path) -> None:
    worker = _load(saved, sdxl_checkpoint)
    before = _draw(worker)
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(saved) not in maps.read_text()
    for file in _weights(saved):
        with file.open("r+b") as opened:
            opened.write(os.urandom(4096))
            opened.truncate(4096)
    assert _draw(worker) == before


def _cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _overwrite(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2)
        opened.write(bytes(4096))
    os.utime(file, ns=(0, 0))  # a coarse clock could show no change within a test


@pytest.mark.parametrize("saved", FORMS, indirect=True)
@pytest.mark.parametrize(("change", "words"), [(_cut, "ends in the middle|was changed"), (_overwrite, "was changed")])
def test_a_file_that_changes_during_loading_is_refused(
    saved: Path, sdxl_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], words: str
) -> None:
    read, reads = WeightsFile.read, 0

    def read_and_change(self: WeightsFile, *arguments: Any, **options: Any) -> torch.Tensor:
        nonlocal reads
        reads += 1
        if reads == 3:
            change(self.path)
        return read(self, *arguments, **options)

    monkeypatch.setattr(WeightsFile, "read", read_and_change)
    with pytest.raises(ModelLoadError, match=words):
        _load(saved, sdxl_checkpoint)


TENSORS = {
    "plain": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "turned": torch.arange(6, dtype=torch.float32).reshape(2, 3).T,
    "part": torch.arange(100, dtype=torch.float16)[10:30:3],
    "number": torch.tensor(2.5),
    "empty": torch.zeros(0, 4),
    "fp8": torch.arange(8).float().to(torch.float8_e4m3fn),
    "large": torch.linspace(-3, 3, 3_000_000),
    "parameter": torch.nn.Parameter(torch.ones(3, 1)),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float32])
def test_each_tensor_of_a_torch_file_equals_the_saved_tensor(tmp_path: Path, zipped: bool, dtype: Any) -> None:
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": TENSORS}, path, _use_new_zipfile_serialization=zipped)
    with WeightsFile(path) as file:
        assert file.header.tensors.keys() == TENSORS.keys()
        for name, tensor in TENSORS.items():
            read = file.read(name, dtype)
            assert read.is_contiguous()
            assert read.dtype == (dtype or tensor.dtype)
            assert torch.equal(read.float(), tensor.detach().to(read.dtype).float()), name


def test_a_compressed_torch_file_is_read(tmp_path: Path) -> None:
    import zipfile

    torch.save(TENSORS, tmp_path / "a.ckpt")
    with zipfile.ZipFile(tmp_path / "a.ckpt") as stored, zipfile.ZipFile(tmp_path / "b.ckpt", "w") as packed:
        for record in stored.infolist():
            packed.writestr(record.filename, stored.read(record), zipfile.ZIP_DEFLATED)
    with WeightsFile(tmp_path / "b.ckpt") as file:
        for name, tensor in TENSORS.items():
            assert torch.equal(file.read(name).float(), tensor.detach().float()), name


def test_a_tensor_is_converted_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import save_file

    save_file({"w": torch.linspace(0, 1, 1001)}, tmp_path / "a.safetensors")
    monkeypatch.setattr(weights_file, "_CHUNK", 64)
    with WeightsFile(tmp_path / "a.safetensors") as file:
        assert torch.equal(file.read("w", torch.float16), torch.linspace(0, 1, 1001).half())
