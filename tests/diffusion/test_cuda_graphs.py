"""CUDA graphs: refused where there can be none, and the bits of ordinary passes on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from imagegen_core import GenerateRequest, Job, LocalEngine, Settings, SettingsError
from imagegen_core.diffusion.cuda_graphs import CudaRecorder, graph_cache
from imagegen_core.diffusion.graph_cache import GraphCache
from imagegen_core.memory_plan import MemoryPlan
from imagegen_core.styles import LoraUse
from imagegen_sd15 import DiffusersCudaWorker
from imagegen_sdxl import DiffusersSDXLCudaWorker
from tests.loras import as_kohya, random_lora, save

CLASSES: dict[str, Any] = {"sdxl": DiffusersSDXLCudaWorker, "sd15": DiffusersCudaWorker}


ROOM = MemoryPlan(total=10**9, room=10**9)
CUDA = torch.device("cuda:0")


def _settings(**environ: str) -> Settings:
    return Settings.load(environ={f"IMAGEGEN_{name}": value for name, value in environ.items()})


@pytest.mark.parametrize(
    ("device", "plan", "environ"),
    [
        ("cpu", ROOM, {}),
        ("mps", ROOM, {}),
        ("cuda:0", ROOM, {"COMPILE": "1"}),
        ("cuda:0", ROOM, {"CUDA_GRAPHS": "0"}),
        ("cuda:0", replace(ROOM, storage="int8"), {}),
        ("cuda:0", replace(ROOM, streamed=True), {}),
        ("cuda:0", replace(ROOM, offloaded=("text_encoder",)), {}),
        ("cuda:0", replace(ROOM, peak=8 * 10**8, step=3 * 10**8), {}),
    ],
)
def test_there_are_no_graphs_where_they_have_no_room_or_are_impossible(
    device: str, plan: MemoryPlan, environ: dict[str, str]
) -> None:
    assert graph_cache(torch.nn.Linear(1, 1), torch.device(device), _settings(**environ), plan) is None


@pytest.mark.cuda
def test_a_gpu_has_graphs_by_default(sdxl_checkpoint: Path) -> None:
    plan = replace(ROOM, peak=7 * 10**8, step=3 * 10**8)
    assert graph_cache(torch.nn.Linear(1, 1), CUDA, _settings(), plan) is not None
    worker = _worker("sdxl", sdxl_checkpoint)
    _drawn(worker, [_request()])
    assert worker._graphs.memory_bytes > 0


@pytest.mark.parametrize(
    ("device", "environ", "reason"),
    [
        ("cpu", {}, "but the model is on cpu: unset it, or use a CUDA device"),
        ("mps", {}, "but the model is on mps: unset it"),
        ("cuda:0", {"COMPILE": "1"}, "and IMAGEGEN_COMPILE compiles the network: unset either"),
        ("cuda:0", {}, "but some of the network's weights are kept outside of cuda:0: unset it"),
    ],
)
def test_graphs_are_refused_where_there_can_be_none(device: str, environ: dict[str, str], reason: str) -> None:
    """The network is on the CPU, as with weights that are loaded block by block."""
    settings = _settings(CUDA_GRAPHS="1", **environ)
    with pytest.raises(SettingsError, match=f"^IMAGEGEN_CUDA_GRAPHS asks for CUDA graphs, {reason}"):
        graph_cache(torch.nn.Linear(1, 1), torch.device(device), settings, ROOM)


def test_a_worker_on_a_cpu_refuses_graphs(sdxl_checkpoint: Path) -> None:
    with pytest.raises(SettingsError, match="^cuda_graphs asks for CUDA graphs, but the model is on cpu"):
        DiffusersSDXLCudaWorker(settings=Settings(model=str(sdxl_checkpoint), device="cpu", cuda_graphs=True))


def _worker(family: str, folder: Path, **options: Any) -> Any:
    return CLASSES[family](settings=Settings(model=str(folder), device="cuda:0", recipe=False, **options))


def _request(**fields: Any) -> GenerateRequest:
    return GenerateRequest(**{"prompt": "a lake", "seed": 1, "size": "64x64", "num_inference_steps": 4, **fields})


def _drawn(worker: Any, requests: Sequence[GenerateRequest]) -> list[bytes]:
    return [worker.run_job(Job(req=request))[0] for request in requests]


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize("family", CLASSES)
def test_graphs_give_the_bits_of_ordinary_passes(
    family: str, dtype: Any, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    folder = request.getfixturevalue(f"{family}_checkpoint")
    variants: list[dict[str, Any]] = [{}, {"seed": 2}, {"size": "128x64"}, {"guidance_scale": 4.0}]
    requests = [_request(**variant) for variant in variants]
    ordinary = _drawn(_worker(family, folder, dtype=dtype, cuda_graphs=False), requests)
    worker = _worker(family, folder, dtype=dtype, cuda_graphs=True)
    assert _drawn(worker, requests) == ordinary
    assert _drawn(worker, requests[::-1]) == ordinary[::-1]
    assert worker._graphs.memory_bytes > 0
    assert not [message for message in caplog.messages if "graph" in message]


@pytest.mark.cuda
def test_graphs_with_loras_give_the_bits_of_ordinary_passes(sdxl_checkpoint: Path, tmp_path: Path) -> None:
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(sdxl_checkpoint, local_files_only=True)
    lora = LoraUse(save(as_kohya(random_lora(pipe)), tmp_path / "a.safetensors"), 1.0, "a")
    requests = [_request(), _request().with_loras([lora])]
    ordinary = _drawn(_worker("sdxl", sdxl_checkpoint, cuda_graphs=False), requests)
    worker = _worker("sdxl", sdxl_checkpoint, cuda_graphs=True)
    assert _drawn(worker, [*requests, *requests]) == [*ordinary, *ordinary]


@pytest.mark.cuda
@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_pictures_in_company_are_those_drawn_alone(sdxl_checkpoint: Path, cuda_graphs: bool) -> None:
    worker = _worker("sdxl", sdxl_checkpoint, cuda_graphs=cuda_graphs)
    requests = [_request(seed=seed, num_inference_steps=3 + seed, guidance_scale=1 + seed % 2) for seed in range(6)]
    alone = _drawn(worker, requests)
    with LocalEngine(worker) as engine:
        tickets = [engine.submit(request) for request in requests]
        assert [ticket.result(120).png for ticket in tickets] == alone


@pytest.mark.cuda
def test_a_network_that_waits_for_the_gpu_runs_without_a_graph(caplog: pytest.LogCaptureFixture) -> None:
    def waiting(tensor: torch.Tensor) -> tuple[torch.Tensor]:
        return (tensor * tensor[0].item(),)

    device = torch.device("cuda:0")
    cache = GraphCache(waiting, CudaRecorder(device))
    for value in (1.0, 2.0, 3.0):
        assert float(cache.call((), torch.tensor([value], device=device))[0]) == value * value
    assert len(caplog.messages) == 1
    doubled = GraphCache(lambda tensor: (tensor * 2,), CudaRecorder(device))  # the GPU works on after the failure
    assert [float(doubled.call((), torch.full((1,), value, device=device))[0]) for value in range(4)] == [0, 2, 4, 6]


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize("family", CLASSES)
def test_a_picture_is_nearly_the_plain_pipelines_on_the_same_gpu(
    family: str, dtype: Any, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(f"{family}_checkpoint")
    worker = _worker(family, folder, dtype=dtype)
    kind = {"sdxl": diffusers.StableDiffusionXLPipeline, "sd15": diffusers.StableDiffusionPipeline}[family]
    left_out = {} if family == "sdxl" else {"safety_checker": None, "feature_extractor": None}
    pipe = kind.from_pretrained(folder, local_files_only=True, torch_dtype=worker.dtype, **left_out).to("cuda:0")
    pipe.scheduler = diffusers.LCMScheduler.from_config(pipe.scheduler.config)
    options = {"num_inference_steps": 4, "guidance_scale": 1.0, "width": 64, "height": 64}
    expected = pipe("a lake", generator=torch.Generator("cpu").manual_seed(1), **options).images[0]
    state = worker.begin(Job(req=_request()))
    while state.steps_left:
        worker.step([state])
    apart = np.abs(np.asarray(worker.finish(state)().image).astype(int) - np.asarray(expected).astype(int))
    coarse = "bf16" if worker.numerics.vae_precision == "bf16" else dtype
    assert apart.max() <= {"fp32": 1, "fp16": 8, "bf16": 32}[coarse]


@pytest.mark.cuda
@pytest.mark.parametrize("vae_dtype", ["bf16", "fp32", None])
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_vae_keeps_its_precision_and_layout_on_cuda(
    sdxl_checkpoint: Path, vae_dtype: Any, channels_last: bool
) -> None:
    worker = _worker("sdxl", sdxl_checkpoint, vae_dtype=vae_dtype, vae_channels_last=channels_last)
    assert worker.numerics.vae_precision == (vae_dtype or "bf16")  # the checkpoint's config sets `force_upcast`
    assert ("VAE channels last" in worker.numerics.layout) == channels_last
    assert _drawn(worker, [_request()]) == _drawn(worker, [_request()])
