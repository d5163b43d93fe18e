"""OpenVINO's pictures are those of torch's backends, which are plain diffusers'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import imagegen_demo
from imagegen_core import GenerateRequest, InvalidRequestError, Job, LocalEngine
from imagegen_core.diffusion import NetworkInputs
from imagegen_openvino.worker import make_worker
from imagegen_sd15 import DiffusersCudaWorker
from imagegen_sdxl import DiffusersSDXLCudaWorker
from tests.checkpoints import save_sd15
from tests.layouts import save_single_file
from tests.openvino.conftest import Pair, difference, draw, settings
from tests.pictures_in.conftest import mask, picture

DEMO = Path(imagegen_demo.__file__).parent / "checkpoint"
REQUESTS: dict[str, dict[str, Any]] = {
    "the smallest size first": {"size": "8x8"},
    "defaults": {},
    "guidance": {"guidance_scale": 4.0},
    "a negative prompt": {"guidance_scale": 4.0, "negative_prompt": "blurry, ugly"},
    "odd sides": {"size": "88x40", "num_inference_steps": 3},
    "a long prompt beside none": {"prompt": "x" * 100, "guidance_scale": 2.0},
    "weights": {"prompt": "a (lake:1.3), [dusk] BREAK stars"},
    "a layer of the encoder less": {"clip_skip": 1},
    "fractional timesteps": {"scheduler": "DPM++ 2M", "schedule": "karras", "num_inference_steps": 4},
    "an ancestral sampler": {"scheduler": "Euler a", "guidance_scale": 3.0},
    "an input picture": {"image": picture(), "strength": 0.6, "num_inference_steps": 5},
    "a mask": {"image": picture(), "mask": mask(), "strength": 0.8, "num_inference_steps": 5},
    "a larger picture of the latents": {"hires": {"scale": 2}},
}


@pytest.mark.parametrize("fields", REQUESTS.values(), ids=REQUESTS)
def test_pictures_match_the_torch_backends(pair: Pair, fields: dict[str, Any]) -> None:
    pair.assert_alike(**fields)


def test_single_files_match_the_torch_backends(pair: Pair, tmp_path: Path) -> None:
    file = save_single_file(pair.theirs.pipe, tmp_path / "model.safetensors")
    worker = make_worker(0, settings(file, base_model=pair.checkpoint))
    assert difference(*(draw(one, size="64x64", guidance_scale=3.0) for one in (worker, pair.theirs))) <= 1


def test_a_network_distilled_with_guidance_matches_the_torch_backend(tmp_path: Path) -> None:
    checkpoint = save_sd15(tmp_path / "distilled", time_cond_proj_dim=16)
    workers = [make(0, settings(checkpoint)) for make in (make_worker, DiffusersCudaWorker)]
    assert difference(*(draw(worker, guidance_scale=7.0) for worker in workers)) <= 1


def test_an_embedding_is_used(pair: Pair, tmp_path: Path) -> None:
    width = pair.theirs.pipe.text_encoder.config.hidden_size
    vectors = {"clip_l": torch.ones(2, width), "clip_g": torch.ones(2, width)}
    state = vectors if hasattr(pair.theirs.pipe, "text_encoder_2") else {"emb_params": vectors["clip_l"]}
    save_file(state, tmp_path / "odd.safetensors")
    makers = (make_worker, type(pair.theirs))
    workers = [make(0, settings(pair.checkpoint, embeddings_root=tmp_path)) for make in makers]
    assert difference(*(draw(worker, prompt="an odd lake") for worker in workers)) <= 1


def test_bf16_distinguishes_timesteps() -> None:
    low, high = make_worker(0, settings(DEMO, dtype="bf16")), DiffusersSDXLCudaWorker(0, settings(DEMO))
    predictions = []
    for worker in (low, high):
        state = worker.begin(Job(req=GenerateRequest(prompt="a lake", seed=1, num_inference_steps=4)))
        predictions.append(worker.predict(NetworkInputs.of(worker.network, [state])).float())
    assert (predictions[0] - predictions[1]).abs().mean() < 0.01


def test_an_engine_draws_the_same_bytes_in_company(pair: Pair) -> None:
    requests = [
        GenerateRequest(
            prompt=f"a lake {seed}", seed=seed, num_inference_steps=2 + seed % 2, guidance_scale=1 + seed % 3
        )
        for seed in range(5)
    ]
    alone = [pair.ours.run_job(Job(req=request))[0] for request in requests]
    with LocalEngine(pair.ours) as engine:
        tickets = [engine.submit(request) for request in requests]
        assert [ticket.result(60).png for ticket in tickets] == alone


def test_an_extensions_argument_is_refused(pair: Pair) -> None:
    state = pair.ours.begin(Job(req=GenerateRequest(prompt="a lake", seed=1)))
    inputs = NetworkInputs.of(pair.ours.network, [state])
    inputs.options["mid_block_additional_residual"] = torch.zeros(1)
    with pytest.raises(InvalidRequestError, match="network's mid_block_additional_residual"):
        pair.ours.predict(inputs)


def test_previews_match_the_torch_backends(pair: Pair) -> None:
    previews = []
    for worker in (pair.ours, pair.theirs):
        state = worker.begin(Job(req=GenerateRequest(prompt="a lake", seed=1)))
        previews.append(np.frombuffer(worker.preview(state), np.uint8))
    assert np.array_equal(*previews)
