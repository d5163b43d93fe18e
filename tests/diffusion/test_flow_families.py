"""Stable Diffusion 3 and FLUX.1 draw the plain diffusers pipelines' pictures, alone and in company."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

import imagegen_sd3.worker
from imagegen_core import GenerateRequest, InvalidRequestError, LocalEngine, ModelLoadError, Settings, generate
from imagegen_flux import FluxWorker
from imagegen_sd3 import StableDiffusion3Worker
from tests.checkpoints import save_flux, save_sd3

DUAL = {"dual_attention_layers": (0,)}
FAMILIES: dict[str, Any] = {
    "sd3.5": (save_sd3, StableDiffusion3Worker, diffusers.StableDiffusion3Pipeline, DUAL),
    "sd3": (save_sd3, StableDiffusion3Worker, diffusers.StableDiffusion3Pipeline, {"qk_norm": None}),
    "sd3 without T5": (save_sd3, StableDiffusion3Worker, diffusers.StableDiffusion3Pipeline, {"with_t5": False}),
    "flux dev": (save_flux, FluxWorker, diffusers.FluxPipeline, {}),
    "flux schnell": (save_flux, FluxWorker, diffusers.FluxPipeline, {"guidance_embeds": False}),
}
REQUESTS: dict[str, dict[str, Any]] = {
    "guidance 1.0": {"guidance_scale": 1.0},
    "one step": {"guidance_scale": 1.0, "num_inference_steps": 1},
    "guidance": {"guidance_scale": 5.0},
    "not square": {"guidance_scale": 3.5, "width": 96, "height": 48, "num_inference_steps": 6},
}
OF_SD3: dict[str, dict[str, Any]] = {
    "a negative prompt": {"guidance_scale": 4.0, "negative_prompt": "blurry, ugly"},
    "an empty negative prompt": {"guidance_scale": 4.0, "negative_prompt": ""},
    "clip skip": {"guidance_scale": 1.0, "clip_skip": 1},
}


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Our worker and the plain pipeline on one checkpoint, both in fp32 on the CPU."""
    save, worker_class, pipeline_class, changes = FAMILIES[request.param]
    folder: Path = save(tmp_path_factory.mktemp("flow") / "checkpoint", **changes)
    absent = {} if changes.get("with_t5", True) else {"text_encoder_3": None, "tokenizer_3": None}
    plain = pipeline_class.from_pretrained(folder, local_files_only=True, **absent)
    plain.set_progress_bar_config(disable=True)
    return worker_class(settings=Settings(model=str(folder), device="cpu", dtype="fp32")), plain


@pytest.mark.parametrize("fields", REQUESTS.values(), ids=REQUESTS)
def test_pictures_equal_the_plain_pipelines(pair: tuple[Any, Any], fields: dict[str, Any]) -> None:
    worker, plain = pair
    _compare(worker, plain, fields)


@pytest.mark.parametrize("fields", OF_SD3.values(), ids=OF_SD3)
def test_more_fields_of_stable_diffusion_3(pair: tuple[Any, Any], fields: dict[str, Any]) -> None:
    worker, plain = pair
    if isinstance(worker, StableDiffusion3Worker):
        _compare(worker, plain, fields)


def test_latents_are_the_plain_pipelines_pooled(pair: tuple[Any, Any]) -> None:
    worker, plain = pair
    drawn = generate("a lake", worker=worker, seed=5, size="96x64").latents
    final = plain(
        "a lake",
        generator=torch.Generator("cpu").manual_seed(5),
        width=96,
        height=64,
        output_type="latent",
        **_length(worker, {"num_inference_steps": 4, "guidance_scale": 1.0}),
    ).images
    if isinstance(worker, FluxWorker):
        final = plain._unpack_latents(final, 64, 96, plain.vae_scale_factor)
    expected = torch.nn.functional.adaptive_avg_pool2d(final, 8).half().numpy()
    np.testing.assert_allclose(np.frombuffer(drawn, "<f2").reshape(1, 16, 8, 8), expected, atol=5e-3)


def test_every_picture_of_a_batch_equals_the_picture_drawn_alone(pair: tuple[Any, Any]) -> None:
    worker, _ = pair
    requests = [
        GenerateRequest(prompt=prompt, size="64x64", seed=seed, num_inference_steps=2 + seed % 3, guidance_scale=scale)
        for seed, (prompt, scale) in enumerate([("a lake", 1.0), ("a red star", 4.0), ("", 1.0), ("dusk", 7.0)])
    ]
    alone = [worker.run_job(_job(request))[0] for request in requests]
    with LocalEngine(worker) as engine:
        tickets = [engine.submit(request) for request in requests]
        assert [ticket.result(60).png for ticket in tickets] == alone


def test_previews_have_a_pixel_for_each_latent(pair: tuple[Any, Any]) -> None:
    worker, _ = pair
    state = worker.begin(_job(GenerateRequest(prompt="a lake", size="64x96", seed=1)))
    worker.step([state])
    assert Image.open(io.BytesIO(worker.preview(state))).size == (8, 12)


def test_weights_of_a_prompt_change_its_picture(pair: tuple[Any, Any]) -> None:
    worker, _ = pair
    plain, weighted = (
        np.asarray(generate(prompt, worker=worker, seed=1, size="64x64").image, int)
        for prompt in ("a red lake", "a (red:1.6) lake")
    )
    assert (plain != weighted).any()


def test_a_long_prompt_is_read_to_its_end(pair: tuple[Any, Any]) -> None:
    worker, _ = pair
    fields = {"seed": 1, "size": "64x64", "guidance_scale": 4.0, "num_inference_steps": 2}
    first, second = (
        generate(f"{'a lake ' * 12} BREAK a star at {end}", worker=worker, **fields).image for end in ("dawn", "dusk")
    )
    assert _largest_difference(first, second) > 0


def test_clip_and_t5_have_the_same_number_of_chunks(sd3_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagegen_sd3.worker, "_T5_TOKENS", 16)
    worker = _sd3(sd3_checkpoint)
    lengths = [worker.encode(prompt, 0).tokens.shape[1] for prompt in ("a lake", "a lake at dawn and at dusk")]
    assert lengths == [77 + 16, 2 * (77 + 16)]
    generate("a lake at dawn and at dusk", worker=worker, size="64x64", guidance_scale=4.0)


def test_too_long_a_prompt_is_refused(pair: tuple[Any, Any]) -> None:
    worker, _ = pair
    with pytest.raises(InvalidRequestError, match=r"Invalid prompt of \d+ (chunks|tokens)"):
        generate("a lake " * 9000, worker=worker, size="64x64")


def test_sizes_are_multiples_of_a_patch(pair: tuple[Any, Any]) -> None:
    worker, _ = pair
    with pytest.raises(InvalidRequestError, match="Invalid size '72x64': this checkpoint takes multiples of 16 pixels"):
        generate("a lake", worker=worker, size="72x64")


def test_a_side_beyond_the_positions_is_refused(tmp_path: Path) -> None:
    worker = _sd3(save_sd3(tmp_path / "checkpoint"))
    with pytest.raises(InvalidRequestError, match="Invalid size '208x64': .*, at most 192x192"):
        generate("a lake", worker=worker, size="208x64")


def test_another_scheduler_in_the_folder_is_refused(tmp_path: Path) -> None:
    folder = save_sd3(tmp_path / "checkpoint")
    diffusers.EulerDiscreteScheduler().save_pretrained(folder / "scheduler")
    index = (folder / "model_index.json").read_text()
    (folder / "model_index.json").write_text(index.replace("FlowMatchEulerDiscreteScheduler", "EulerDiscreteScheduler"))
    with pytest.raises(ModelLoadError, match="its family is of flow matching"):
        _sd3(folder)


def _sd3(folder: Path) -> StableDiffusion3Worker:
    return StableDiffusion3Worker(settings=Settings(model=str(folder), device="cpu", dtype="fp32"))


def _compare(worker: Any, plain: Any, fields: dict[str, Any]) -> None:
    fields = {"num_inference_steps": 4, "width": 64, "height": 64, **fields}
    own = _length(worker, fields)
    expected = plain("a lake at dawn", generator=torch.Generator("cpu").manual_seed(11), **own).images[0]

    size = f"{fields.pop('width')}x{fields.pop('height')}"
    drawn = generate("a lake at dawn", worker=worker, seed=11, size=size, **fields).image

    assert drawn.size == expected.size
    assert _largest_difference(drawn, expected) <= 1


def _length(worker: Any, fields: dict[str, Any]) -> dict[str, Any]:
    """Add the length of T5's prompts that the model cards of FLUX.1 give: 512 for dev, 256 for schnell."""
    if isinstance(worker, StableDiffusion3Worker):
        return fields
    return {**fields, "max_sequence_length": 512 if worker.network.config.guidance_embeds else 256}


def _job(request: GenerateRequest) -> Any:
    from imagegen_core import Job

    return Job(req=request)


def _largest_difference(first: Image.Image, second: Image.Image) -> int:
    return int(np.abs(np.asarray(first, int) - np.asarray(second, int)).max())
