"""The shortcuts: a worker in one call, a picture in one call."""

from __future__ import annotations

from pathlib import Path

import pytest

import imagegen_core
from imagegen_core import BackendNotFoundError, InvalidRequestError, Settings


def test_generate_draws_a_picture_in_one_call(sdxl_checkpoint: Path) -> None:
    picture = imagegen_core.generate("a lake", model=str(sdxl_checkpoint), seed=5, size="64x48")
    assert picture.png.startswith(b"\x89PNG\r\n\x1a\n")
    assert (picture.image.size, picture.image.mode) == ((64, 48), "RGB")
    assert picture.seed == 5
    assert len(picture.latents) == 512


def test_a_loaded_worker_draws_the_same_picture(sdxl_checkpoint: Path) -> None:
    worker = imagegen_core.load_worker(model=str(sdxl_checkpoint))
    first, second = (imagegen_core.generate("a lake", worker=worker, seed=5) for _ in range(2))
    assert first == second == imagegen_core.generate("a lake", model=str(sdxl_checkpoint), seed=5)


def test_the_configuration_chooses_the_worker(
    sd15_checkpoint: Path, sdxl_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_ROOT", str(sd15_checkpoint.parent))
    monkeypatch.setenv("MODEL", sd15_checkpoint.name)
    assert type(imagegen_core.load_worker()).__name__ == "DiffusersCudaWorker"
    assert type(imagegen_core.load_worker(model=str(sdxl_checkpoint))).__name__ == "DiffusersSDXLCudaWorker"


def test_explicit_settings_replace_the_environment(sd15_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL", "nowhere")
    settings = Settings(model=str(sd15_checkpoint), dtype="fp32", device="cpu")
    worker = imagegen_core.load_worker(settings=settings)
    assert (type(worker).__name__, str(worker.dtype)) == ("DiffusersCudaWorker", "torch.float32")  # type: ignore[attr-defined]


def test_an_unknown_backend_is_refused(sdxl_checkpoint: Path) -> None:
    with pytest.raises(BackendNotFoundError, match="No backend 'gone' is installed: installed are .*sdxl"):
        imagegen_core.load_worker(backend="gone", model=str(sdxl_checkpoint))


def test_a_wrong_request_is_refused_before_a_model_is_loaded() -> None:
    with pytest.raises(InvalidRequestError, match="Invalid size"):
        imagegen_core.generate("a lake", size="12by7", model="nowhere")
