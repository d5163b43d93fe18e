"""A family without a UNet, written with public names alone, draws the plain Stable Diffusion 3 pipeline's pictures."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from imagegen_core import (
    GenerateRequest,
    ImagegenError,
    InvalidRequestError,
    Job,
    LocalEngine,
    Settings,
    Size,
    StyleLoraRequest,
    generate,
    read_recipe,
)
from imagegen_core.samplers import SAMPLERS
from tests.checkpoints import save_sd3
from tests.diffusion.flow_worker import FlowWorker
from tests.plugins.installed import Installer

PLUGIN = """
from imagegen_core import hookimpl
from tests.diffusion.flow_worker import BACKEND, FLOW

@hookimpl
def imagegen_backends():
    return [BACKEND]

@hookimpl
def imagegen_families():
    return [FLOW]
"""
SHIFTS: dict[str, dict[str, Any]] = {
    "a fixed shift": {"shift": 3.0},
    "a shift by size": {"use_dynamic_shifting": True, "base_image_seq_len": 8, "max_image_seq_len": 64},
}


@pytest.fixture(scope="module", params=SHIFTS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sd3(tmp_path_factory.mktemp("flow") / "model", with_t5=False, scheduler=SHIFTS[request.param])


@pytest.fixture(scope="module")
def plain(checkpoint: Path) -> Any:
    return _plain(checkpoint)


def _plain(checkpoint: Path) -> Any:
    absent = {"text_encoder_3": None, "tokenizer_3": None}
    plain = diffusers.StableDiffusion3Pipeline.from_pretrained(checkpoint, local_files_only=True, **absent)
    plain.set_progress_bar_config(disable=True)
    return plain


@pytest.fixture(scope="module", autouse=True)
def _installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        Installer(tmp_path_factory.mktemp("plugins") / "site-packages", patch).add("flow", PLUGIN)
        yield


@pytest.fixture(scope="module")
def worker(checkpoint: Path) -> Any:
    return _load(checkpoint)


def _load(checkpoint: Path, **fields: Any) -> Any:
    return FlowWorker(settings=Settings(model=str(checkpoint), device="cpu", dtype="fp32", **fields))


def _draw_plain(plain: Any, prompt: str = "a lake at dawn", **fields: Any) -> Any:
    options = {"num_inference_steps": 4, "guidance_scale": 4.0, "width": 64, "height": 64, **fields}
    generator = torch.Generator("cpu").manual_seed(11)
    if "generator" in inspect.signature(plain.scheduler.step).parameters:  # the pipeline leaves it to torch's own
        plain.scheduler.step = partial(plain.scheduler.step, generator=generator)
    return plain(prompt, generator=generator, **options)


def _draw(worker: Any, **fields: Any) -> Any:
    options = {"num_inference_steps": 4, "guidance_scale": 4.0, "size": "64x64", **fields}
    return generate("a lake at dawn", worker=worker, seed=11, **options)


def _assert_equal(drawn: Any, expected: Any) -> None:
    assert np.abs(np.asarray(drawn.image, int) - np.asarray(expected, int)).max() <= 1


REQUESTS: dict[str, dict[str, Any]] = {
    "guidance 1.0": {"guidance_scale": 1.0},
    "one step": {"num_inference_steps": 1},
    "with a negative prompt": {"negative_prompt": "blurry, ugly"},
    "clip skip": {"clip_skip": 1, "guidance_scale": 1.0},  # the plain pipeline skips nothing in negative prompts
    "not square": {"width": 96, "height": 48, "num_inference_steps": 7},
}


@pytest.mark.parametrize("fields", REQUESTS.values(), ids=REQUESTS)
def test_pictures_equal_the_plain_pipelines(worker: Any, plain: Any, fields: dict[str, Any]) -> None:
    expected = _draw_plain(plain, **fields).images[0]
    size = f"{fields.get('width', 64)}x{fields.get('height', 64)}"
    fields = {name: value for name, value in fields.items() if name not in ("width", "height")}
    _assert_equal(_draw(worker, size=size, **fields), expected)


def test_latents_are_pooled_with_all_their_channels(worker: Any, plain: Any) -> None:
    final = _draw_plain(plain, output_type="latent", width=96, height=80).images
    expected = torch.nn.functional.adaptive_avg_pool2d(final, 8).half().numpy()
    drawn = np.frombuffer(_draw(worker, size="96x80").latents, "<f2").reshape(1, 16, 8, 8)
    np.testing.assert_allclose(drawn, expected, atol=2e-3)


FLOWS = [sampler for sampler in SAMPLERS if sampler.flow]


@pytest.mark.parametrize("sampler", FLOWS, ids=lambda sampler: sampler.name)
def test_samplers_draw_the_plain_pipelines_pictures(worker: Any, plain: Any, sampler: Any) -> None:
    kind, own = getattr(diffusers, sampler.flow_class_name), plain.scheduler
    options = dict(sampler.options)
    if not sampler.flow_class_name.startswith("FlowMatch"):
        options |= {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": own.config.shift}
    if own.config.use_dynamic_shifting and sampler.name == "Heun":
        with pytest.raises(InvalidRequestError, match="Invalid scheduler 'Heun': .* depend on the picture's size"):
            _draw(worker, scheduler=sampler.name)
        return
    plain.scheduler = kind.from_config(own.config, **options)
    try:
        expected = _draw_plain(plain, num_inference_steps=6).images[0]
    finally:
        plain.scheduler = own
    _assert_equal(_draw(worker, scheduler=sampler.name, num_inference_steps=6), expected)


def test_the_checkpoints_own_scheduler_is_the_default(worker: Any) -> None:
    default = _draw(worker)
    assert default.png == _draw(worker, scheduler="checkpoint").png
    assert default.png == _draw(worker, scheduler="Euler").png
    assert default.png == _draw(worker, scheduler="FlowMatchEulerDiscreteScheduler").png


def test_a_recipe_draws_the_same_picture_again(worker: Any) -> None:
    default = _draw(worker)
    recipe = read_recipe(default.png)
    assert recipe.scheduler == "Euler"
    assert worker.run_job(Job(req=recipe.request()))[0] == default.png


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"scheduler": "Euler a"}, "Invalid scheduler 'Euler a': this checkpoint is of flow matching"),
        (
            {"schedule": "Normal"},
            "Invalid schedule 'Normal': .* takes Automatic, Karras, Exponential, SGM Uniform",
        ),
        (
            {"schedule": "999, 499"},
            "Invalid schedule '999, 499': .* takes .*, SGM Uniform, Simple$",
        ),
        ({"scheduler": "UniPC", "schedule": "Simple"}, "Invalid schedule 'Simple': .* takes Automatic$"),
        ({"s_churn": 1.0}, "Invalid s_churn 1: .* takes none"),
    ],
)
def test_options_without_effect_are_refused(worker: Any, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        _draw(worker, num_inference_steps=2, **fields)


@pytest.mark.parametrize("schedule", ["Simple", "SGM Uniform"])
def test_even_schedules_are_those_of_flux(worker: Any, plain: Any, schedule: str) -> None:
    expected = _draw_plain(plain, num_inference_steps=6, sigmas=np.linspace(1.0, 1 / 6, 6)).images[0]
    _assert_equal(_draw(worker, scheduler="Euler", schedule=schedule, num_inference_steps=6), expected)


def test_karras_levels_are_those_of_diffusers(worker: Any, plain: Any) -> None:
    own = plain.scheduler
    plain.scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(own.config, use_karras_sigmas=True)
    try:
        expected = _draw_plain(plain).images[0]
    finally:
        plain.scheduler = own
    _assert_equal(_draw(worker, scheduler="Euler", schedule="Karras"), expected)


def test_automatic_is_the_samplers_own_schedule(worker: Any) -> None:
    assert _draw(worker, scheduler="Euler", schedule="Automatic").png == _draw(worker, scheduler="Euler").png


def test_pictures_in_company_are_exact(worker: Any) -> None:
    requests = [
        GenerateRequest(prompt=prompt, seed=seed, guidance_scale=scale)
        for seed, (prompt, scale) in enumerate([("a lake", 1.0), ("a sea", 4.0), ("a star", 1.0), ("a hill", 2.0)])
    ]
    alone = [worker.run_job(Job(req=request))[0] for request in requests]
    with LocalEngine(worker) as engine:
        tickets = [engine.submit(request) for request in requests]
        assert [ticket.result(60).png for ticket in tickets] == alone


def test_a_transformers_lora_draws_the_plain_pipelines_picture(checkpoint: Path, tmp_path: Path, plain: Any) -> None:
    torch.manual_seed(4)
    config = LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_v", "to_out.0"], init_lora_weights=False)
    tuned = _plain(checkpoint)
    tuned.transformer.add_adapter(config)
    state = get_peft_model_state_dict(tuned.transformer, adapter_name="default")
    save_file(
        {f"transformer.{name}": value.contiguous() for name, value in state.items()}, tmp_path / "ink.safetensors"
    )
    worker = _load(checkpoint, lora_root=tmp_path)
    drawn = Job(req=GenerateRequest(prompt="a lake at dawn", seed=11, guidance_scale=4.0, style_lora=_style("ink")))
    expected = _draw_plain(tuned).images[0]
    with pytest.raises(AssertionError):
        _assert_equal(_draw(worker), expected)
    _assert_equal(_picture(worker.run_job(drawn)), expected)
    _assert_equal(_draw(worker), _draw_plain(plain).images[0])


def _style(name: str) -> StyleLoraRequest:
    return StyleLoraRequest(style=name, level=3)


def _picture(result: tuple[bytes, int]) -> Any:
    from imagegen_core import Picture

    return Picture(*result, latents=b"")


def test_a_preview_resembles_the_picture(worker: Any) -> None:
    state = worker.begin(Job(req=GenerateRequest(prompt="a lake", seed=1)))
    while state.steps_left:
        worker.step([state])
    preview = worker.preview(state)
    assert preview.startswith(b"\x89PNG")


def test_a_larger_picture_takes_more_memory(worker: Any) -> None:
    small, large = (worker.row_bytes(Size(side, side)) for side in (64, 128))
    assert large == 4 * small > 0


def test_a_scheduler_of_another_kind_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    index = json.loads((checkpoint / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "EulerDiscreteScheduler"]
    for part in checkpoint.iterdir():
        if part.is_dir() and part.name != "scheduler":
            (tmp_path / part.name).symlink_to(part)
    diffusers.EulerDiscreteScheduler().save_pretrained(tmp_path / "scheduler")
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ImagegenError, match="has a EulerDiscreteScheduler, and its family is of flow matching"):
        _load(tmp_path)


def test_a_prediction_type_is_refused(checkpoint: Path) -> None:
    with pytest.raises(ImagegenError, match="prediction=v does not suit the backend 'flow'"):
        _load(checkpoint, prediction="v")


def test_a_single_file_is_refused_by_a_family_without_any(worker: Any, tmp_path: Path) -> None:
    with pytest.raises(ImagegenError, match="is a single file, and the backend 'flow' draws only diffusers-format"):
        worker.load_file(tmp_path / "model.safetensors", None)
