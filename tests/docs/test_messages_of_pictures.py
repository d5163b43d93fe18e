"""The guides' quotes, each compared with a provoked message: those that need networks, an engine or a server."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import psutil
import pytest
import torch
from fastapi.testclient import TestClient
from safetensors.torch import save_file
from torch._dynamo.exc import TorchDynamoException

from imagegen_core import GenerateRequest, ImagegenError, Job, LocalEngine, OutOfMemoryError, Settings, Size
from imagegen_core.diffusion.embeddings import Embeddings
from imagegen_core.diffusion.memory import check_fits, decoding_bytes, memory_errors, unet_row_bytes
from imagegen_core.diffusion.pipeline_setup import compile_errors
from imagegen_core.diffusion.vae_setup import set_up_vae, settle_precision
from imagegen_core.memory_plan import TILE
from imagegen_core.server import create_app
from imagegen_sdxl import DiffusersSDXLCudaWorker
from tests.docs.conftest import AssertQuoted
from tests.docs.fences import ROOT
from tests.docs.networks import released
from tests.engine.faults import Gate, Watched
from tests.loras import TARGETS, as_kohya, random_lora, save

CPU: dict[str, Any] = {"device": "cpu", "dtype": "fp32", "recipe": False}


@pytest.fixture(scope="module")
def worker(sdxl_checkpoint: Path) -> Any:
    return DiffusersSDXLCudaWorker(settings=Settings(model=str(sdxl_checkpoint), **CPU))


def _request(**fields: Any) -> GenerateRequest:
    return GenerateRequest(**{"prompt": "a lake", "seed": 1, "size": "64x64", **fields})


def test_memory(assert_quoted: AssertQuoted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=16e9, available=9e9))
    size, networks = Size(8192, 8192), released("sdxl")
    needed = max(unet_row_bytes(networks.unet, 1024 * 1024), decoding_bytes(networks.vae, Size(TILE, TILE)))
    with pytest.raises(ImagegenError) as caught:
        check_fits(needed, size, torch.device("cpu"), total=16 * 10**9, weights=7 * 10**9)
    assert_quoted("A picture larger than the memory", caught.value)
    with pytest.raises(ImagegenError) as caught, memory_errors(Size(1024, 1024)):
        raise torch.OutOfMemoryError
    assert_quoted("The memory ran out", caught.value)


def test_a_picture_that_cannot_be_decoded(
    assert_quoted: AssertQuoted, worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagegen_core.diffusion.memory.free_bytes", lambda _: 10**5)
    with pytest.raises(ImagegenError) as caught:
        worker.run_job(Job(req=_request()))
    assert_quoted("A picture cannot be decoded", caught.value)


def test_a_warning_about_memory(assert_quoted: AssertQuoted, worker: Any, caplog: pytest.LogCaptureFixture) -> None:
    def small(states: Sequence[Any]) -> None:
        if len(states) > 1:
            raise OutOfMemoryError("too much")

    gate, watched = Gate(), Watched(worker)
    with LocalEngine(watched, batching="fast") as engine:
        watched.before = {"begin": gate, "step": small, "trial": small}
        gate.shut()
        tickets = [engine.submit(_request(seed=seed)) for seed in range(4)]
        gate.open()
        for ticket in tickets:
            ticket.result(60)
    assert_quoted("A warning about memory", caplog.messages[0])


def test_compiling(assert_quoted: AssertQuoted) -> None:
    with pytest.raises(ImagegenError) as caught, compile_errors("IMAGEGEN_COMPILE"):
        raise TorchDynamoException("no compiler")
    assert_quoted("Compilation fails", caught.value)


def test_xformers(assert_quoted: AssertQuoted, sdxl_checkpoint: Path) -> None:
    environ = {"MODEL": str(sdxl_checkpoint), "CUDA_ENABLE_XFORMERS": "1", "CUDA_DEVICE": "cpu"}
    with pytest.raises(ImagegenError) as caught:
        DiffusersSDXLCudaWorker(settings=Settings.load(environ=environ))
    assert_quoted("Missing xformers", caught.value)


def test_styles_and_embeddings(
    assert_quoted: AssertQuoted, worker: Any, sdxl_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(sdxl_checkpoint, local_files_only=True)
    lora = {name.replace("blocks.1", "blocks.7"): tensor for name, tensor in random_lora(pipe, targets=TARGETS).items()}
    save(as_kohya(lora), tmp_path / "models/loras/papercut.safetensors")
    settings = Settings(model=str(sdxl_checkpoint), lora_root=tmp_path / "models/loras", **CPU)
    styled = DiffusersSDXLCudaWorker(settings=settings)
    with pytest.raises(ImagegenError) as caught:
        styled.run_job(Job(req=_request(style_lora={"style": "papercut", "level": 1})))
    assert_quoted("A style with other layers", caught.value)

    (tmp_path / "embeddings").mkdir()
    save_file({"emb_params": torch.zeros(2, 768)}, tmp_path / "embeddings/badhands.safetensors")
    text = SimpleNamespace(config=SimpleNamespace(hidden_size=768))
    pipe = SimpleNamespace(text_encoder=text, text_encoder_2=text)
    Embeddings(pipe, ("text_encoder", "text_encoder_2"), tmp_path / "embeddings", "EMBEDDINGS_ROOT")
    assert_quoted("An embedding made for SD1.5", caplog.messages[-1])


def test_pictures(assert_quoted: AssertQuoted, sdxl_checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    worker = DiffusersSDXLCudaWorker(settings=Settings(model=str(sdxl_checkpoint), device="cpu", dtype="fp16"))
    worker.run_job(Job(req=_request(negative_prompt="blurry")))
    assert_quoted("The negative prompt does nothing", *caplog.messages)
    caplog.clear()
    vae = worker.pipe.vae
    vae.register_to_config(force_upcast=False)
    with torch.no_grad():
        vae.decoder.conv_in.weight.mul_(3e4)
        vae.decoder.conv_in.bias.fill_(6e4)
        torch.nn.Module.to(vae, torch.float16)
        settle_precision(vae, torch.device("cpu"))
        asked = Settings.load(environ={"IMAGEGEN_VAE_DTYPE": "fp16"})
        set_up_vae(vae, torch.device("cpu"), torch.float16, asked)
        torch.nn.Module.to(vae, torch.float16)  # as if it had passed the trial
        worker.run_job(Job(req=_request()))
        worker.pipe.unet.conv_out.bias.fill_(torch.nan)
    with pytest.raises(ImagegenError) as caught:
        worker.run_job(Job(req=_request()))
    assert_quoted("Black pictures", *caplog.messages, caught.value)


def test_a_server_that_is_not_ready(assert_quoted: AssertQuoted, tmp_path: Path) -> None:
    app = create_app(Settings(model="my-sdxl.safetensors", model_root=tmp_path, api_keys=("hush",)))
    http, body = TestClient(app), {"prompt": "a lake"}
    keys = {"X-API-Key": "hush"}
    assert_quoted("A missing API key", http.post("/generate", json=body).json()["detail"])
    loading = http.post("/generate", json=body, headers=keys).json()["detail"]
    model = app.state.context.mode_manager
    model.start()
    while model.state == "loading":
        threading.Event().wait(0.01)
    failed = http.post("/generate", json=body, headers=keys).json()["detail"]
    assert_quoted("The model is not ready", loading, failed)


def test_a_server_that_is_busy(assert_quoted: AssertQuoted, worker: Any) -> None:
    gate = Gate()
    watched = Watched(worker)
    with LocalEngine(watched, queue_limit=64) as engine:
        watched.before = {"begin": gate}
        gate.shut()
        first = engine.submit(_request())
        assert gate.reached.wait(60)
        waiting = [engine.submit(_request()) for _ in range(64)]
        with pytest.raises(ImagegenError) as caught:
            engine.submit(_request())
        assert_quoted("The queue is full", caught.value)
        late = waiting[0]
        late.deadline = 120
        late.expire(late.since + 121)
        with pytest.raises(ImagegenError) as caught:
            late.result(60)
        assert_quoted("Too late", caught.value)
        for ticket in waiting:
            ticket.cancel()
        gate.open()
        first.result(60)


def _parameters(*networks: Any) -> int:
    return sum(parameter.numel() for network in networks for parameter in network.parameters())


@pytest.mark.parametrize(("family", "side", "column"), [("sd15", 512, 0), ("sdxl", 1024, 1)])
def test_the_guide_states_the_sizes_of_each_family(family: str, side: int, column: int) -> None:
    networks = released(family)
    parts = (networks.unet, *networks.texts, networks.vae)
    weights = sum(parameter.nbytes for part in parts for parameter in part.parameters())
    decoding = decoding_bytes(networks.vae, Size(side, side)) / 1e9
    figures = {
        "UNet": f"{_parameters(networks.unet) / 1e6:.1f} M parameters",
        "text encoders": f"{_parameters(*networks.texts) / 1e6:.1f} M",
        "VAE": f"{_parameters(networks.vae) / 1e6:.1f} M",
        "all weights": f"{weights / 1e9:.1f} GB",
        "a row of a step; two with guidance": f"{unet_row_bytes(networks.unet, (side // 8) ** 2) / 1e9:.2f} GB",
        "decoding in one piece": f"{decoding:.1f} GB"
        + (f", or {2 * decoding:.1f} GB in fp32" if family == "sdxl" else ""),
    }
    assert _table("docs/sd15-to-sdxl.md", column) | figures == _table("docs/sd15-to-sdxl.md", column)


def _table(page: str, column: int) -> dict[str, str]:
    """Return the cells of one column of a page's tables, by the first cell of their row."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {row[0]: row[1 + column] for row in rows if len(row) > 1 + column}
