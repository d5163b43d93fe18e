"""torch.compile, if the configuration enables it."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from safetensors.torch import save_file

from imagegen_core import GenerateRequest, Job, Settings, SettingsError, load_worker
from imagegen_core.job import StepDone
from imagegen_core.styles import LoraUse
from tests.checkpoints import save_sdxl

# torch warns about its own modules.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore::UserWarning:torch")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose UNet has one block on each side, because each layer takes seconds to compile."""
    unet = {
        "block_out_channels": (32,),
        "mid_block_type": None,
        "down_block_types": ("CrossAttnDownBlock2D",),
        "up_block_types": ("CrossAttnUpBlock2D",),
    }
    return save_sdxl(tmp_path_factory.mktemp("compiled") / "tiny-sdxl", **unet)


def _settings(checkpoint: Path, *, compiled: bool) -> Settings:
    environ = {"IMAGEGEN_COMPILE": "1"} if compiled else {}
    return Settings.load(environ=environ, model=str(checkpoint), device="cpu", dtype="fp32")


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_draws_the_same_picture_and_reports_its_warm_up(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("imagegen_core.diffusion.worker._COMPILED_ROWS", (1,))  # each size takes most of a minute
    request = GenerateRequest(prompt="a star", size="64x64", seed=3, num_inference_steps=2)
    eager = load_worker(settings=_settings(checkpoint, compiled=False))
    compiled = load_worker(settings=_settings(checkpoint, compiled=True))
    reports: list[StepDone] = []
    compiled.warm_up(reports.append)
    assert [(done.step, done.steps) for done in reports] == [(1, 1)]
    assert compiled.pipe.unet._compiled_call_impl is not None
    save_file({"unet.conv_in.diff": compiled.pipe.unet.conv_in.weight.detach() * 0.5}, tmp_path / "lora.safetensors")
    lora = LoraUse(tmp_path / "lora.safetensors", 1.0, "half more")
    drawn = []
    for variant in (request, request.with_loras([lora]), request):
        pictures = [_pixels(worker.run_job(Job(req=variant))[0]) for worker in (eager, compiled)]
        assert np.abs(pictures[0] - pictures[1]).max() <= 1
        drawn.append(pictures[1])
    assert np.abs(drawn[1] - drawn[0]).max() > 2
    assert (drawn[0] == drawn[2]).all()


def test_nothing_is_compiled_by_default(checkpoint: Path) -> None:
    worker = load_worker(settings=_settings(checkpoint, compiled=False))
    reports: list[StepDone] = []
    worker.warm_up(reports.append)
    assert not reports
    assert worker.pipe.unet._compiled_call_impl is None


def test_without_a_compiler_the_error_names_the_setting(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor.config
    from torch._inductor.exc import InvalidCxxCompiler

    def search(_: object) -> str:
        raise InvalidCxxCompiler

    monkeypatch.setattr(torch._inductor.config, "force_disable_caches", True)
    monkeypatch.setattr("torch._inductor.cpp_builder.cpp_compiler_search", search)
    worker = load_worker(settings=_settings(checkpoint, compiled=True))
    with pytest.raises(SettingsError, match=r"^IMAGEGEN_COMPILE asks for torch.compile, which does not work here"):
        worker.warm_up()


def _pixels(png: bytes) -> npt.NDArray[np.int_]:
    return np.asarray(Image.open(io.BytesIO(png))).astype(int)
