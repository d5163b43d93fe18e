"""Passes from recordings have the bits of ordinary passes. A tape of operators stands for a CUDA graph on a CPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from imagegen_core import GenerateRequest, Job, LocalEngine, Settings
from imagegen_core.diffusion import graph_cache
from imagegen_core.diffusion.graph_cache import GraphCache
from imagegen_core.diffusion.loras import adapters
from imagegen_core.diffusion.loras.adapters import Adapter
from imagegen_core.diffusion.network_inputs import NetworkInputs
from imagegen_core.styles import LoraUse
from imagegen_flux import FluxWorker
from imagegen_sd3 import StableDiffusion3Worker
from imagegen_sd15 import DiffusersCudaWorker
from imagegen_sdxl import DiffusersSDXLCudaWorker
from tests.diffusion.extensions import ControlNet, Faded
from tests.diffusion.tape import TapeRecorder
from tests.loras import as_kohya, random_lora, save

CLASSES: dict[str, Any] = {
    "sdxl": DiffusersSDXLCudaWorker,
    "sd15": DiffusersCudaWorker,
    "sd3": StableDiffusion3Worker,
    "flux": FluxWorker,
}
NO_LORAS: tuple[Adapter, ...] = ()


def _worker(family: str, folder: Path, **options: Any) -> Any:
    settings = Settings(model=str(folder), device="cpu", dtype="fp32", recipe=False, **options)
    return CLASSES[family](settings=settings)


def _recording(worker: Any) -> TapeRecorder:
    """Make a worker record its passes, as `cuda_graphs` does on a GPU."""
    recorder = TapeRecorder()
    worker._graphs = GraphCache(worker.network, recorder)
    worker._adapters._on_unload = worker._graphs.forget
    return recorder


def _request(**fields: Any) -> GenerateRequest:
    return GenerateRequest(**{"prompt": "a lake", "seed": 1, "size": "64x64", "num_inference_steps": 4, **fields})


def _drawn(worker: Any, requests: Sequence[GenerateRequest]) -> list[bytes]:
    return [worker.run_job(Job(req=request))[0] for request in requests]


@pytest.fixture
def sdxl(sdxl_checkpoint: Path) -> Iterator[Any]:
    return _worker("sdxl", sdxl_checkpoint)


@pytest.mark.parametrize("family", CLASSES)
def test_pictures_are_the_same_from_recordings(family: str, request: pytest.FixtureRequest) -> None:
    """Other sizes, rows, steps, seeds and prompts, in turn and again."""
    worker = _worker(family, request.getfixturevalue(f"{family}_checkpoint"))
    variants: list[dict[str, Any]] = [
        {},
        {"seed": 2, "num_inference_steps": 3, "scheduler": None},
        {"size": "128x64"},
        {"guidance_scale": 4.0, "prompt": "a sea"},
        {"prompt": ", ".join(["a very long prompt"] * 30)},
    ]
    requests = [_request(**variant) for variant in variants]
    ordinary = _drawn(worker, requests)
    recorder = _recording(worker)
    assert _drawn(worker, requests) == ordinary
    assert _drawn(worker, requests) == ordinary
    assert 2 <= recorder.recorded <= 5
    assert recorder.replayed > 4 * recorder.recorded


@pytest.mark.parametrize("rows", [1, 4])
def test_pictures_in_company_are_the_same_from_recordings(sdxl_checkpoint: Path, rows: int) -> None:
    worker = _worker("sdxl", sdxl_checkpoint, rows_per_pass=rows)
    requests = [_request(seed=seed, num_inference_steps=3 + seed, guidance_scale=1 + seed % 2) for seed in range(6)]
    ordinary = _drawn(worker, requests)
    recorder = _recording(worker)
    with LocalEngine(worker) as engine:
        tickets = [engine.submit(request) for request in requests]
        assert [ticket.result(60).png for ticket in tickets] == ordinary
    assert recorder.replayed


def test_each_lora_and_strength_has_a_recording(sdxl: Any, tmp_path: Path) -> None:
    first, second = (_lora(sdxl.checkpoint, tmp_path / f"{name}.safetensors", seed) for seed, name in enumerate("ab"))
    variants = [(), (LoraUse(first, 1.0, "a"),), (LoraUse(first, 0.5, "a"),), (LoraUse(second, 1.0, "b"),)]
    requests = [_request().with_loras(list(loras)) for loras in variants]
    ordinary = _drawn(sdxl, requests)
    assert len(set(ordinary)) == len(ordinary)
    recorder = _recording(sdxl)
    assert _drawn(sdxl, [*requests, *requests[::-1]]) == [*ordinary, *ordinary[::-1]]
    assert recorder.recorded == len(variants)


def test_a_lora_leaves_the_memory_with_its_recordings(
    sdxl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters, "_KEPT", 1)
    loras = [LoraUse(_lora(sdxl.checkpoint, tmp_path / f"{name}.safetensors", 1), 1.0, name) for name in "ab"]
    requests = [_request().with_loras([lora]) for lora in loras]
    ordinary = _drawn(sdxl, requests)
    recorder = _recording(sdxl)
    assert _drawn(sdxl, [*requests, *requests]) == [*ordinary, *ordinary]
    assert recorder.recorded == 4
    assert len(sdxl._graphs._graphs) == 1


def test_an_extension_with_an_own_network_call_has_no_recording(sdxl: Any) -> None:
    state = sdxl.begin(Job(req=_request(guidance_scale=4.0)))
    assert graph_cache.is_replayable([state])
    state.parts[object.__new__(Faded)] = "faded"
    assert graph_cache.is_replayable([state])
    state.parts[object.__new__(ControlNet)] = None
    assert not graph_cache.is_replayable([state])
    recorder = _recording(sdxl)
    assert sdxl._network([state]) is sdxl.network
    assert not recorder.recorded


def test_the_memory_of_recordings_counts(sdxl: Any) -> None:
    before = sdxl.memory_bytes()
    _recording(sdxl)
    state = sdxl.begin(Job(req=_request()))
    inputs = NetworkInputs.of(sdxl.network, [state])
    tensors = [inputs.latents, inputs.timesteps, inputs.conditioning.tokens, *inputs.conditioning.added.values()]
    while state.steps_left:
        sdxl.step([state])
    assert sdxl.memory_bytes() - before == TapeRecorder.memory_bytes + sum(tensor.nbytes for tensor in tensors)


def _doubled(tensor: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
    return (tensor * 2,)


def test_a_network_that_waits_for_the_device_runs_without_a_recording(caplog: pytest.LogCaptureFixture) -> None:
    def waiting(tensor: torch.Tensor) -> tuple[torch.Tensor]:
        return (tensor * tensor[0].item(),)

    recorder = TapeRecorder()
    cache = GraphCache(waiting, recorder)
    for value in (1.0, 2.0, 3.0):
        assert torch.equal(cache.call(NO_LORAS, torch.tensor([value]))[0], torch.tensor([value * value]))
    (message,) = caplog.messages
    assert message.startswith("A pass of the network cannot be replayed from a CUDA graph (aten::_local_scalar_dense")
    assert (recorder.recorded, recorder.replayed) == (1, 0)


def test_a_recording_with_other_bits_is_never_used(caplog: pytest.LogCaptureFixture) -> None:
    class Wrong(TapeRecorder):
        def record(self, run: Any) -> Any:
            replay, outputs = super().record(run)
            return lambda: (replay(), outputs[0].nextafter_(torch.tensor(9.0))), outputs

    recorder = Wrong()
    cache = GraphCache(_doubled, recorder)
    for value in (1.0, 2.0, 3.0):
        assert cache.call(NO_LORAS, torch.tensor([value]))[0] == 2 * value
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("A CUDA graph gives other bits")
    assert (recorder.recorded, recorder.replayed) == (1, 1)


def test_bits_are_compared_so_nan_does_not_refuse_a_recording() -> None:
    recorder = TapeRecorder()
    cache = GraphCache(_doubled, recorder)
    for _ in range(3):
        assert cache.call(NO_LORAS, torch.tensor([torch.nan]))[0].isnan()
    assert recorder.replayed == 2


def test_a_result_is_not_overwritten_by_the_next_pass() -> None:
    cache = GraphCache(_doubled, TapeRecorder())
    results = [cache.call(NO_LORAS, torch.tensor([value]))[0] for value in (1.0, 2.0, 3.0, 4.0, 5.0)]
    assert [float(result) for result in results] == [2, 4, 6, 8, 10]


CALLS = st.lists(
    st.tuples(st.sampled_from([(1,), (2,), (2, 3)]), st.sampled_from([torch.float32, torch.bfloat16]), st.booleans()),
    max_size=60,
)


@given(calls=CALLS, kept=st.integers(1, 4))
def test_any_order_of_passes_gives_ordinary_results_and_few_recordings(calls: Any, kept: int) -> None:
    def network(tensor: torch.Tensor, *, nested: Any, twice: bool) -> tuple[torch.Tensor]:
        return (tensor * (2 if twice else 1) + nested["more"][0],)

    cache = GraphCache(network, TapeRecorder())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph_cache, "_KEPT", kept)
        for number, (shape, dtype, twice) in enumerate(calls):
            tensor, more = torch.full(shape, number, dtype=dtype), torch.full(shape, number / 2, dtype=dtype)
            (result,) = cache.call(NO_LORAS, tensor, nested={"more": [more], "none": None}, twice=twice)
            assert torch.equal(result, tensor * (2 if twice else 1) + more)
            assert len(cache._graphs) <= kept
            assert graph_cache._Unrecorded.REFUSED not in cache._graphs.values()


def _lora(checkpoint: Path, path: Path, seed: int) -> Path:
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(checkpoint, local_files_only=True)
    return save(as_kohya(random_lora(pipe, seed)), path)
