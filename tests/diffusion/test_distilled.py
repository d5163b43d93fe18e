"""Distilled checkpoints and the options of each step draw the plain pipeline's pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from imagegen_core import Settings, generate, read_recipe
from imagegen_core.diffusion.guidance import rescaled
from imagegen_core.errors import InvalidRequestError
from imagegen_sdxl import DiffusersSDXLCudaWorker


@pytest.fixture(scope="module")
def plain(sdxl_checkpoint: Path) -> Any:
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(sdxl_checkpoint, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def worker(sdxl_checkpoint: Path) -> Any:
    return DiffusersSDXLCudaWorker(settings=Settings(model=str(sdxl_checkpoint), device="cpu", dtype="fp32"))


def _expected(plain: Any, scheduler: Any, **call: Any) -> np.ndarray[Any, Any]:
    original, plain.scheduler = plain.scheduler, scheduler
    try:
        generator = torch.Generator("cpu").manual_seed(7)
        return np.asarray(plain("a lake", generator=generator, width=64, height=64, **call).images[0], int)
    finally:
        plain.scheduler = original


def _difference(drawn: Any, expected: np.ndarray[Any, Any]) -> int:
    return int(np.abs(np.asarray(drawn.image, int) - expected).max())


# From each author's README: the scheduler, its options, and the call's arguments; then our request.
README: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "SDXL-Lightning, 4 steps": (
        "EulerDiscreteScheduler",
        {"timestep_spacing": "trailing"},
        {"num_inference_steps": 4, "guidance_scale": 0},
        {"scheduler": "Euler", "schedule": "SGM Uniform"},
    ),
    "SDXL-Turbo, 1 step": (
        "EulerAncestralDiscreteScheduler",
        {"timestep_spacing": "trailing"},
        {"num_inference_steps": 1, "guidance_scale": 0.0},
        {"scheduler": "Euler a", "schedule": "SGM Uniform"},
    ),
    "Hyper-SD, 8 steps": (
        "DDIMScheduler",
        {"timestep_spacing": "trailing"},
        {"num_inference_steps": 8, "guidance_scale": 0},
        {"scheduler": "DDIM SGM Uniform"},
    ),
    "Hyper-SD, unified": (
        "TCDScheduler",
        {},
        {"num_inference_steps": 4, "guidance_scale": 0, "eta": 1.0},
        {"scheduler": "TCD", "eta": 1.0},
    ),
    "Hyper-SD, 1 step": (
        "LCMScheduler",
        {},
        {"num_inference_steps": 1, "guidance_scale": 0, "timesteps": [800]},
        {"scheduler": "LCM", "schedule": "800"},
    ),
    "DMD2, 4 steps": (
        "LCMScheduler",
        {},
        {"num_inference_steps": 4, "guidance_scale": 0, "timesteps": [999, 749, 499, 249]},
        {"scheduler": "LCM", "schedule": "SGM Uniform"},
    ),
    "DMD2, 1 step": (
        "LCMScheduler",
        {},
        {"num_inference_steps": 1, "guidance_scale": 0, "timesteps": [399]},
        {"schedule": "399"},
    ),
}


@pytest.mark.parametrize(("scheduler", "options", "call", "fields"), README.values(), ids=README)
def test_distilled_checkpoints_draw_their_authors_pictures(
    plain: Any, worker: Any, scheduler: str, options: dict[str, Any], call: dict[str, Any], fields: dict[str, Any]
) -> None:
    expected = _expected(plain, getattr(diffusers, scheduler).from_config(plain.scheduler.config, **options), **call)
    steps, guidance = call["num_inference_steps"], call["guidance_scale"]
    drawn = generate("a lake", worker=worker, seed=7, num_inference_steps=steps, guidance_scale=guidance, **fields)
    assert _difference(drawn, expected) <= 1


def test_lightning_in_one_step_predicts_the_picture(plain: Any, sdxl_checkpoint: Path) -> None:
    settings = Settings(model=str(sdxl_checkpoint), device="cpu", dtype="fp32", prediction="sample")
    drawn = generate(
        "a lake",
        worker=DiffusersSDXLCudaWorker(settings=settings),
        seed=7,
        num_inference_steps=1,
        guidance_scale=0,
        scheduler="Euler SGM Uniform",
    )
    options = {"timestep_spacing": "trailing", "prediction_type": "sample"}
    scheduler = diffusers.EulerDiscreteScheduler.from_config(plain.scheduler.config, **options)
    assert _difference(drawn, _expected(plain, scheduler, num_inference_steps=1, guidance_scale=0)) <= 1


@pytest.mark.parametrize("rescale", [0.3, 1.0])
def test_guidance_rescale_equals_diffusers(plain: Any, worker: Any, rescale: float) -> None:
    options: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 6.0, "guidance_rescale": rescale}
    expected = _expected(plain, diffusers.EulerDiscreteScheduler.from_config(plain.scheduler.config), **options)
    drawn = generate("a lake", worker=worker, seed=7, scheduler="Euler", **options)
    assert _difference(drawn, expected) <= 1
    assert read_recipe(drawn.png).guidance_rescale == rescale
    del options["guidance_rescale"]
    assert _difference(generate("a lake", worker=worker, seed=7, scheduler="Euler", **options), expected) > 1


def test_a_rescaled_prediction_has_the_positive_predictions_spread() -> None:
    guided, positive = 3 * torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    spread = rescaled(guided, positive, 1.0).std(dim=(1, 2, 3))
    assert torch.allclose(spread, positive.std(dim=(1, 2, 3)), rtol=1e-4)


def test_eta_equals_diffusers(plain: Any, worker: Any) -> None:
    options: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 3.0, "eta": 0.6}
    expected = _expected(plain, diffusers.DDIMScheduler.from_config(plain.scheduler.config), **options)
    drawn = generate("a lake", worker=worker, seed=7, scheduler="DDIM", **options)
    assert _difference(drawn, expected) <= 1
    assert read_recipe(drawn.png).eta == 0.6


def test_churn_equals_diffusers(plain: Any, worker: Any) -> None:
    """The plain pipeline passes only eta and a generator; its scheduler's step adds the other options itself."""
    churn = {"s_churn": 3.0, "s_tmin": 0.5, "s_tmax": 10.0, "s_noise": 1.05}

    class Churning(diffusers.EulerDiscreteScheduler):  # type: ignore[misc] # diffusers has no types
        def step(self, model_output: Any, timestep: Any, sample: Any, generator: Any = None, **more: Any) -> Any:
            return super().step(model_output, timestep, sample, generator=generator, **churn, **more)

    options: dict[str, Any] = {"num_inference_steps": 5, "guidance_scale": 3.0}
    expected = _expected(plain, Churning.from_config(plain.scheduler.config), **options)
    drawn = generate("a lake", worker=worker, seed=7, scheduler="Euler", **options, **churn)
    assert _difference(drawn, expected) <= 1
    assert _difference(generate("a lake", worker=worker, seed=7, scheduler="Euler", **options), expected) > 1
    recipe = read_recipe(drawn.png)
    assert {name: getattr(recipe, name) for name in churn} == churn


@pytest.mark.parametrize(
    ("scheduler", "options"),
    [
        ("Euler a", {"eta": 1.0, "s_noise": 1.0}),
        ("DPM++ 2M", {"eta": 0.0, "s_churn": 0.0, "s_tmin": 0.0}),
        ("DDIM", {"s_noise": 1.0}),
    ],
)
def test_every_sampler_accepts_options_without_effect(worker: Any, scheduler: str, options: dict[str, float]) -> None:
    fields: dict[str, Any] = {"worker": worker, "seed": 7, "scheduler": scheduler, "num_inference_steps": 2}
    assert np.array_equal(generate("a lake", **fields, **options).image, generate("a lake", **fields).image)


@pytest.mark.parametrize(
    ("scheduler", "options", "words"),
    [
        (
            "Euler a",
            {"eta": 0.0},
            "Invalid eta 0: the Euler a scheduler takes none; leave it out, or name one of DDIM, TCD",
        ),
        ("Euler", {"eta": 1.0}, "Invalid eta 1: the Euler scheduler takes none"),
        ("DDIM", {"s_churn": 1.0}, "Invalid s_churn 1: .* name one of Euler, Euler Karras$"),
        ("DPM++ 2M", {"s_noise": 0.9}, "Invalid s_noise 0.9: the DPM[+][+] 2M scheduler takes none"),
        ("LCM", {"s_tmax": 5.0}, "Invalid s_tmax 5: the LCM scheduler takes none"),
        ("DDIM", {"eta": 1.5}, "Invalid eta 1.5: expected a number from 0 to 1"),
    ],
)
def test_options_unsupported_by_a_sampler_are_refused(
    worker: Any, scheduler: str, options: dict[str, float], words: str
) -> None:
    with pytest.raises(InvalidRequestError, match=words) as caught:
        generate("a lake", worker=worker, scheduler=scheduler, **options)  # type: ignore[arg-type]
    assert caught.value.field == next(iter(options))
