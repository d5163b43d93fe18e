"""Samplers are found by their common names, and each draws the plain pipeline's picture."""

from __future__ import annotations

from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from imagegen_core import Sampler, Settings, generate
from imagegen_core.errors import InvalidRequestError
from imagegen_core.samplers import SAMPLERS, find_sampler
from imagegen_sd15 import DiffusersCudaWorker
from imagegen_sdxl import DiffusersSDXLCudaWorker


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Euler a", "Euler a"),
        ("euler_a", "Euler a"),
        ("EulerAncestralDiscreteScheduler", "Euler a"),
        ("dpm++ 2m karras", "DPM++ 2M Karras"),
        ("DPMSolverMultistepScheduler", "DPM++ 2M"),
        ("UniPC", "UniPC"),
        ("ddim", "DDIM"),
        ("PLMS", "PLMS"),
    ],
)
def test_a_sampler_is_found_by_its_common_names(name: str, expected: str) -> None:
    assert find_sampler(name, SAMPLERS).name == expected


def test_sampler_names_are_unique() -> None:
    for sampler in SAMPLERS:
        assert find_sampler(sampler.name, SAMPLERS) is sampler


def test_the_error_for_an_unknown_sampler_lists_the_known_samplers() -> None:
    with pytest.raises(
        InvalidRequestError, match="Unknown scheduler 'Euler b': expected one of LCM, Euler, .*, TCD, .*, a"
    ):
        find_sampler("Euler b", SAMPLERS)


ORDINARY = [sampler for sampler in SAMPLERS if not sampler.name.startswith("EDM")]


@pytest.fixture(scope="module", params=["sdxl", "sd15"])
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """Our worker and the plain pipeline on one checkpoint, both in fp32 on the CPU."""
    folder = request.getfixturevalue(f"{request.param}_checkpoint")
    worker_class, pipeline_class = {
        "sdxl": (DiffusersSDXLCudaWorker, diffusers.StableDiffusionXLPipeline),
        "sd15": (DiffusersCudaWorker, diffusers.StableDiffusionPipeline),
    }[request.param]
    plain = pipeline_class.from_pretrained(folder, local_files_only=True)
    plain.set_progress_bar_config(disable=True)
    return worker_class(settings=Settings(model=str(folder), device="cpu", dtype="fp32", recipe=False)), plain


def _draw_plain(plain: Any, scheduler: Any, steps: int) -> Any:
    original = plain.scheduler
    plain.scheduler = scheduler
    try:
        return plain(
            "a lake at dawn",
            generator=torch.Generator("cpu").manual_seed(11),
            num_inference_steps=steps,
            guidance_scale=3.0,
            width=64,
            height=64,
        ).images[0]
    finally:
        plain.scheduler = original


@pytest.mark.parametrize("sampler", ORDINARY, ids=lambda sampler: sampler.name)
def test_each_sampler_draws_the_plain_pipelines_picture(pair: tuple[Any, Any], sampler: Sampler) -> None:
    worker, plain = pair
    scheduler_class = getattr(diffusers, sampler.class_name)
    expected = _draw_plain(plain, scheduler_class.from_config(plain.scheduler.config, **sampler.options), steps=5)

    drawn = generate(
        "a lake at dawn",
        worker=worker,
        seed=11,
        scheduler=sampler.name,
        num_inference_steps=5,
        guidance_scale=3.0,
    )

    assert np.abs(np.asarray(drawn.image, int) - np.asarray(expected, int)).max() <= 1


def test_the_checkpoint_sampler_is_the_scheduler_in_the_folder(pair: tuple[Any, Any]) -> None:
    worker, plain = pair
    expected = _draw_plain(plain, plain.scheduler, steps=3)
    options = {"seed": 11, "num_inference_steps": 3, "guidance_scale": 3.0}
    drawn = generate("a lake at dawn", worker=worker, scheduler="checkpoint", **options)
    assert np.abs(np.asarray(drawn.image, int) - np.asarray(expected, int)).max() <= 1
    assert drawn.png != generate("a lake at dawn", worker=worker, **options).png  # LCM is the default


def test_samplers_draw_different_pictures(pair: tuple[Any, Any]) -> None:
    worker, _ = pair
    names = ("LCM", "Euler", "Euler a", "DPM++ 2M", "DPM++ 2M Karras", "DDIM", "UniPC")
    assert len({generate("a lake", worker=worker, seed=1, scheduler=name).png for name in names}) == len(names)


def test_an_unknown_sampler_is_refused(pair: tuple[Any, Any]) -> None:
    with pytest.raises(InvalidRequestError, match="Unknown scheduler 'fastest'"):
        generate("a lake", worker=pair[0], scheduler="fastest")


@pytest.mark.parametrize(("scheduler", "limit"), [("LCM", 50), ("Euler", 1000)])
def test_steps_above_the_samplers_limit_are_refused(pair: tuple[Any, Any], scheduler: str, limit: int) -> None:
    with pytest.raises(InvalidRequestError, match=f"the {scheduler} scheduler takes 1 to {limit}"):
        generate("a lake", worker=pair[0], scheduler=scheduler, num_inference_steps=limit + 1)


def test_the_configured_sampler_is_the_default(pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    worker, _ = pair
    monkeypatch.setenv("CUDA_SCHEDULER", "euler a")
    monkeypatch.setenv("IMAGEGEN_RECIPE", "0")
    monkeypatch.setenv("MODEL", str(worker.checkpoint))
    monkeypatch.setenv("CUDA_DEVICE", "cpu")
    monkeypatch.setenv("CUDA_DTYPE", "fp32")
    configured = type(worker)()
    assert (
        generate("a lake", worker=configured, seed=1).png
        == generate("a lake", worker=worker, seed=1, scheduler="Euler a").png
    )


def test_an_unknown_configured_sampler_is_refused_at_loading(pair: tuple[Any, Any]) -> None:
    worker, _ = pair
    with pytest.raises(InvalidRequestError, match="Unknown scheduler 'fastest'"):
        type(worker)(settings=Settings(model=str(worker.checkpoint), scheduler="fastest"))
