"""Models of one file share its tensors in memory, and a change in one model reaches no other."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import save_file

from imagegen_core import GenerateRequest, Job, Settings
from imagegen_core.diffusion.decoding import convert
from imagegen_core.diffusion.shared_weights import SHARED_WEIGHTS
from imagegen_core.styles import LoraUse
from imagegen_sdxl import DiffusersSDXLCudaWorker
from tests.checkpoints import save_sdxl
from tests.layouts import save_single_file
from tests.loras import as_diffusers, random_lora


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of about 60 MB."""
    return save_sdxl(tmp_path_factory.mktemp("shared") / "sdxl", block_out_channels=(96, 384))


@pytest.fixture(scope="module")
def file(folder: Path) -> Path:
    pipeline = diffusers.StableDiffusionXLPipeline.from_pretrained(folder, local_files_only=True)
    return save_single_file(pipeline, folder.with_name("model.safetensors"))


def _load(path: Path, folder: Path, dtype: Any = "fp32") -> Any:
    settings = Settings(model=str(path), base_model=folder, device="cpu", dtype=dtype, recipe=False)
    return DiffusersSDXLCudaWorker(settings=settings)


def _draw(worker: Any, loras: Sequence[LoraUse] = ()) -> bytes:
    request = GenerateRequest(prompt="a lake", seed=1, size="64x64", num_inference_steps=2).with_loras(loras)
    return worker.run_job(Job(req=request))[0]  # type: ignore[no-any-return]


def _places(worker: Any) -> set[int]:
    networks = (worker.pipe.unet, worker.pipe.vae, worker.pipe.text_encoder)
    return {tensor.data_ptr() for network in networks for tensor in network.state_dict().values()}


def _resident() -> int:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(fields["VmRSS"].split()[0])


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_second_model_takes_hardly_any_memory(file: Path, folder: Path, dtype: str) -> None:
    first = _load(file, folder, dtype)
    alone, before = first.memory_bytes(), _resident()
    second = _load(file, folder, dtype)
    grown = _resident() - before
    assert _places(first) == _places(second)
    assert grown < alone / 3
    assert first.memory_bytes() + second.memory_bytes() < 1.1 * alone
    del first
    gc.collect()
    assert second.memory_bytes() == alone
    assert _draw(second) == _draw(_load(folder, folder, dtype))


def test_the_last_model_releases_the_memory(file: Path, folder: Path) -> None:
    worker = _load(file, folder)
    assert _places(worker)
    del worker
    gc.collect()
    assert all(SHARED_WEIGHTS.find(origin) is None for origin in SHARED_WEIGHTS._known)


def test_another_precision_and_a_changed_file_share_nothing(file: Path, folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(file.read_bytes())
    first, half = _load(copy, folder), _load(copy, folder, "bf16")
    assert not _places(first) & _places(half)
    copy.write_bytes(file.read_bytes())
    assert not _places(first) & _places(_load(copy, folder))


def test_base_models_parts_are_shared(file: Path, folder: Path) -> None:
    first, second = _load(folder, folder), _load(folder, folder)
    assert _places(first) == _places(second)


def test_a_change_in_one_model_reaches_no_other(file: Path, folder: Path, tmp_path: Path) -> None:
    first, second = _load(file, folder, "bf16"), _load(file, folder, "bf16")
    expected = _draw(second)
    pipeline = diffusers.StableDiffusionXLPipeline.from_pretrained(folder, local_files_only=True)
    save_file(as_diffusers(random_lora(pipeline)), tmp_path / "lora.safetensors")
    changed = _draw(first, loras=[LoraUse(tmp_path / "lora.safetensors", 1.0, "lora")])
    convert(first.pipe.vae, torch.float32)
    first.pipe.unet.to(torch.float32)
    assert changed != expected
    assert _draw(second) == expected
    assert {parameter.dtype for parameter in second.pipe.vae.parameters()} == {torch.bfloat16}
