"""Noise schedules, compared with diffusers' documented options or A1111's documented formulas."""

from __future__ import annotations

import inspect
import math
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.schedulers import AysSchedules

from imagegen_core import Sampler
from imagegen_core.diffusion.noise_schedules import beta_quantiles
from imagegen_core.diffusion.scheduling import Schedulers, step_arguments
from imagegen_core.errors import InvalidRequestError
from imagegen_core.samplers import SAMPLERS, OwnScheduler, find_sampling, step_limit
from imagegen_core.schedules import SCHEDULES, find_schedule

CPU = torch.device("cpu")
TRAINED: dict[str, Any] = {  # https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
}
AYS_XL = (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029)
# https://huggingface.co/docs/diffusers/api/schedulers/overview, "Noise schedules and schedule types"
DOCUMENTED: dict[str, dict[str, Any]] = {
    "Karras": {"use_karras_sigmas": True},
    "Exponential": {"timestep_spacing": "linspace", "use_exponential_sigmas": True},
    "SGM Uniform": {"timestep_spacing": "trailing"},
    "Uniform": {"timestep_spacing": "linspace"},
}
NAMED = [sampler for sampler in SAMPLERS if not sampler.name.startswith("EDM")]
PLAIN = [sampler for sampler in NAMED if not sampler.name.endswith("Karras")]


@pytest.fixture(scope="module")
def schedulers() -> Schedulers:
    return Schedulers(diffusers.EulerDiscreteScheduler.from_config(TRAINED), SAMPLERS, None, AYS_XL)


def _trained() -> np.ndarray[Any, Any]:
    """The noise levels of Stable Diffusion's training: https://arxiv.org/abs/2112.10752, appendix."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alphas = np.cumprod(1 - betas)
    return np.sqrt((1 - alphas) / alphas)


def _denoised(scheduler: Any, seed: int = 3) -> torch.Tensor:
    """The final latents, with a stand-in for the network."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(1, 4, 4, 4, generator=generator) * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        sample = scheduler.scale_model_input(latents, timestep)
        noise = (sample * (1 + timestep / 1000)).tanh()
        arguments = step_arguments(scheduler, generator)
        latents = scheduler.step(noise, timestep, latents, return_dict=False, **arguments)[0]
    return latents


def _options(sampler: Sampler, schedule: str) -> dict[str, Any] | None:
    """The documented options that the sampler's class has; None if it lacks the decisive option."""
    known = inspect.signature(getattr(diffusers, sampler.class_name).__init__).parameters
    options = DOCUMENTED[schedule]
    decisive = next((name for name in options if name.startswith("use_")), "timestep_spacing")
    if decisive not in known or sampler.most_steps is not None:  # LCM and TCD ignore the option
        return None
    return {name: value for name, value in options.items() if name in known}


@pytest.mark.parametrize(
    ("sampler", "schedule"),
    [(sampler, schedule) for sampler in PLAIN for schedule in DOCUMENTED if _options(sampler, schedule)],
    ids=lambda value: getattr(value, "name", value),
)
@pytest.mark.parametrize("steps", [4, 7])
def test_a_schedule_denoises_as_plain_diffusers_with_documented_options(
    schedulers: Schedulers, sampler: Sampler, schedule: str, steps: int
) -> None:
    options = {**sampler.options, **(_options(sampler, schedule) or {})}
    plain = getattr(diffusers, sampler.class_name).from_config(TRAINED, **options)
    plain.set_timesteps(steps)
    scheduler = schedulers.make(sampler.name, steps, CPU, schedule)
    assert torch.equal(scheduler.timesteps, plain.timesteps)
    assert torch.equal(_denoised(scheduler), _denoised(plain))


# A1111's modules/sd_schedulers.py and, with the same results, ComfyUI's comfy/samplers.py.
def _simple(trained: np.ndarray[Any, Any], steps: int) -> list[float]:
    return [trained[len(trained) - 1 - int(step * len(trained) / steps)] for step in range(steps)]


def _normal(trained: np.ndarray[Any, Any], steps: int) -> list[float]:
    levels = []
    for step in range(steps):
        place = 999 - step * 999 / max(steps - 1, 1)
        low, high = math.floor(place), math.ceil(place)
        share = place - low
        levels.append(math.exp((1 - share) * math.log(trained[low]) + share * math.log(trained[high])))
    return levels


def _ddim(trained: np.ndarray[Any, Any], steps: int) -> list[float]:
    levels, place = [], 1
    while place < len(trained):
        levels.append(trained[place])
        place += len(trained) // steps
    return levels[::-1]


def _karras(trained: np.ndarray[Any, Any], steps: int) -> list[float]:
    low, high = trained[0] ** (1 / 7), trained[-1] ** (1 / 7)
    return [(high + step / max(steps - 1, 1) * (low - high)) ** 7 for step in range(steps)]


def _exponential(trained: np.ndarray[Any, Any], steps: int) -> list[float]:
    ratio = trained[0] / trained[-1]
    return [trained[-1] * ratio ** (step / max(steps - 1, 1)) for step in range(steps)]


def _beta(trained: np.ndarray[Any, Any], steps: int) -> list[float]:
    shares = [1 - step / max(steps - 1, 1) for step in range(steps)]
    return [trained[0] + _beta_quantile(share) * (trained[-1] - trained[0]) for share in shares]


def _beta_quantile(share: float) -> float:
    """The quantile of Beta(0.6, 0.6), from its density on a fine grid; x = sin(angle) ** 2 removes the poles."""
    angles = np.linspace(0, math.pi / 2, 400_001)
    middles = (angles[1:] + angles[:-1]) / 2
    below = np.concatenate([[0], np.cumsum((np.sin(middles) * np.cos(middles)) ** 0.2)])
    return float(np.sin(np.interp(share, below / below[-1], angles)) ** 2)


def _ays(_: np.ndarray[Any, Any], steps: int) -> list[float]:
    """Log-linear between the published levels, with 0 as the last: ComfyUI's AlignYourStepsScheduler."""
    places = np.linspace(0, 1, steps + 1)
    levels = np.exp(np.interp(places, np.linspace(0, 1, len(AYS_XL)), np.log(AYS_XL)))
    return levels[:-1].tolist()


FORMULAS = {
    "Simple": _simple,
    "Normal": _normal,
    "DDIM": _ddim,
    "Karras": _karras,
    "Exponential": _exponential,
    "Beta": _beta,
    "Align Your Steps": _ays,
}


@pytest.mark.parametrize("schedule", FORMULAS)
@pytest.mark.parametrize("steps", [1, 3, 10, 20])
def test_the_noise_levels_follow_the_formula(schedulers: Schedulers, schedule: str, steps: int) -> None:
    expected = [*FORMULAS[schedule](_trained(), steps), 0.0]
    scheduler = schedulers.make("Euler a", steps, CPU, schedule)
    np.testing.assert_allclose(scheduler.sigmas, expected, rtol=2e-4)
    timesteps = np.interp(np.log(expected[:-1]), np.log(_trained()), np.arange(1000))
    np.testing.assert_allclose(scheduler.timesteps, timesteps, atol=0.02)


@pytest.mark.parametrize("schedule", ["Simple", "Normal", "DDIM", "Beta", "Align Your Steps"])
@pytest.mark.parametrize("sampler", ["Euler", "DPM++ 2M", "DPM++ 2M SDE", "DPM++ SDE", "DEIS", "UniPC", "Heun", "DPM2"])
def test_every_sampler_with_noise_levels_uses_the_schedules_levels(
    schedulers: Schedulers, sampler: str, schedule: str
) -> None:
    expected = FORMULAS[schedule](_trained(), 8)
    scheduler = schedulers.make(sampler, 8, CPU, schedule)
    levels = list(dict.fromkeys(scheduler.sigmas.tolist()))  # Heun and DPM2 repeat levels, and DPM2 adds some
    nearest = [min(levels, key=lambda level, target=target: abs(level - target)) for target in expected]  # type: ignore[misc]
    np.testing.assert_allclose(nearest, expected, rtol=2e-2)  # the published levels of AYS have three digits
    assert levels[0] == nearest[0]
    assert _denoised(scheduler).isfinite().all()


def test_the_beta_quantiles_equal_scipys() -> None:
    # scipy.stats.beta.ppf(share, 0.6, 0.6) of scipy 1.17.1; diffusers uses it for use_beta_sigmas
    known = {
        0.0: 0.0,
        0.05: 0.012554456873611399,
        0.25: 0.17568037865269498,
        0.5: 0.5,
        0.9: 0.9604155944112192,
        0.999: 0.9999814412614826,
        1.0: 1.0,
    }
    np.testing.assert_allclose(beta_quantiles(np.array([*known])), [*known.values()], rtol=1e-12)


@pytest.mark.parametrize(("sampler", "scheduler_class"), [("Euler", "EulerDiscreteScheduler")])
def test_ten_steps_of_align_your_steps_equal_diffusers_sigmas(
    schedulers: Schedulers, sampler: str, scheduler_class: str
) -> None:
    plain = getattr(diffusers, scheduler_class).from_config(TRAINED)
    plain.set_timesteps(sigmas=AysSchedules["StableDiffusionXLSigmas"])
    assert torch.equal(_denoised(schedulers.make(sampler, 10, CPU, "AYS")), _denoised(plain))


@pytest.mark.parametrize("sampler", ["DPM++ 2M", "DPM++ 2M SDE", "DPM++ SDE", "Heun", "LCM", "TCD", "DDPM"])
def test_ten_steps_of_align_your_steps_equal_diffusers_timesteps(schedulers: Schedulers, sampler: str) -> None:
    definition, _ = find_sampling(sampler, None, SAMPLERS, OwnScheduler(""))
    plain = getattr(diffusers, definition.class_name).from_config(TRAINED, **definition.options)
    plain.set_timesteps(timesteps=AysSchedules["StableDiffusionXLTimesteps"])
    assert torch.equal(_denoised(schedulers.make(sampler, 10, CPU, "Align Your Steps")), _denoised(plain))


def test_stable_diffusion_1_has_its_own_levels_for_align_your_steps() -> None:
    schedulers = Schedulers(diffusers.EulerDiscreteScheduler.from_config(TRAINED), SAMPLERS, None)
    expected = AysSchedules["StableDiffusionSigmas"]
    np.testing.assert_allclose(schedulers.make("Euler", 10, CPU, "Align Your Steps").sigmas, expected, rtol=1e-6)


@pytest.mark.parametrize("sampler", ["LCM", "TCD"])
def test_distilled_samplers_accept_trailing_and_listed_timesteps(schedulers: Schedulers, sampler: str) -> None:
    for schedule in ("SGM Uniform", "999, 749, 499, 249"):
        assert schedulers.make(sampler, 4, CPU, schedule).timesteps.tolist() == [999, 749, 499, 249]
    assert schedulers.make(sampler, 1, CPU, "800").timesteps.tolist() == [800]


def test_a_distilled_samplers_timesteps_log_no_warning(
    schedulers: Schedulers, caplog: pytest.LogCaptureFixture
) -> None:
    schedulers.make("LCM", 4, CPU, "SGM Uniform")
    assert not caplog.records


@pytest.mark.parametrize(
    ("sampler", "schedule", "words"),
    [
        ("DDIM", "Karras", "the DDIM scheduler takes Automatic, Uniform, SGM Uniform, DDIM$"),
        ("PLMS", "Beta", "the PLMS scheduler takes Automatic, Uniform, SGM Uniform, DDIM$"),
        ("LCM", "Exponential", "takes Automatic, Uniform, SGM Uniform, Simple, Normal, DDIM, Align .*, or timesteps$"),
        ("Euler a", "999, 500", "the Euler a scheduler takes Automatic, Uniform, Karras, .*, Align Your Steps$"),
        ("Euler", "nix", "Unknown schedule 'nix': expected one of Automatic, .*, or timesteps such as"),
        ("Euler", "500, 999", "expected timesteps that fall"),
        ("LCM", "1000, 500", "the checkpoint has the timesteps 0 to 999"),
        ("DPM++ 2M Karras", "Beta", "names the schedule Karras already"),
        ("Euler a SGM Uniform", "Simple", "names the schedule SGM Uniform already"),
    ],
)
def test_a_schedule_unsuitable_for_the_sampler_is_refused(
    schedulers: Schedulers, sampler: str, schedule: str, words: str
) -> None:
    with pytest.raises(InvalidRequestError, match=words) as caught:
        schedulers.make(sampler, 2, CPU, schedule)
    assert caught.value.field == "schedule"


def test_the_number_of_listed_timesteps_must_equal_the_steps(schedulers: Schedulers) -> None:
    with pytest.raises(InvalidRequestError, match="Invalid num_inference_steps 4: the schedule lists 2 timesteps"):
        schedulers.make("LCM", 4, CPU, "999, 499")


@pytest.mark.parametrize(
    ("sampler", "schedule", "names"),
    [
        ("DPM++ 2M", "karras", ("DPM++ 2M", "Karras")),
        ("DPM++ 2M Karras", None, ("DPM++ 2M Karras", None)),
        ("DPM++ 2M Karras", "Karras", ("DPM++ 2M Karras", None)),
        ("dpm++ 2m sde exponential", None, ("DPM++ 2M SDE", "Exponential")),
        ("Euler a SGM Uniform", None, ("Euler a", "SGM Uniform")),
        ("Euler a", "sgm_uniform", ("Euler a", "SGM Uniform")),
        ("Euler a", "trailing", ("Euler a", "SGM Uniform")),
        ("DPM++ 2M", "align_your_steps", ("DPM++ 2M", "Align Your Steps")),
        ("Euler", "ddim_uniform", ("Euler", "DDIM")),
        ("EulerDiscreteScheduler", "Beta", ("Euler", "Beta")),
        ("checkpoint", "Karras", ("EulerDiscreteScheduler", "Karras")),
        # modules/sd_samplers_kdiffusion.py of A1111 1.10
        ("DPM++ 2M", "Automatic", ("DPM++ 2M", "Karras")),
        ("DPM++ SDE", "Automatic", ("DPM++ SDE", "Karras")),
        ("DPM++ 2M SDE", "Automatic", ("DPM++ 2M SDE", "Exponential")),
        ("DPM2 a", "Automatic", ("DPM2 a", "Karras")),
        ("Euler", "Automatic", ("Euler", "Uniform")),
        ("DDIM", "Automatic", ("DDIM", None)),
        ("Euler Karras", "Automatic", ("Euler Karras", None)),
    ],
)
def test_samplers_and_schedules_are_found_by_their_common_names(
    schedulers: Schedulers, sampler: str, schedule: str | None, names: tuple[str, str | None]
) -> None:
    assert schedulers.names(sampler, schedule) == names


@pytest.mark.parametrize("schedule", [schedule.name for schedule in SCHEDULES])
def test_a_joined_name_and_separate_names_mean_the_same(schedulers: Schedulers, schedule: str) -> None:
    assert find_schedule(schedule.lower().replace(" ", "_")) is find_schedule(schedule)
    together, apart = schedulers.make(f"Euler a {schedule}", 5, CPU), schedulers.make("Euler a", 5, CPU, schedule)
    assert torch.equal(_denoised(together), _denoised(apart))


def test_the_schedule_overrides_the_checkpoints_own_options() -> None:
    own = diffusers.DPMSolverMultistepScheduler.from_config(TRAINED, use_karras_sigmas=True)
    scheduler = Schedulers(own, SAMPLERS, None).make("checkpoint", 6, CPU, "Exponential")
    plain = diffusers.DPMSolverMultistepScheduler.from_config(TRAINED, **DOCUMENTED["Exponential"])
    plain.set_timesteps(6)
    assert torch.equal(_denoised(scheduler), _denoised(plain))


@pytest.mark.parametrize("sampler", NAMED, ids=lambda sampler: sampler.name)
def test_steps_up_to_the_limit_are_drawn_and_more_are_refused(schedulers: Schedulers, sampler: Sampler) -> None:
    limit = step_limit(sampler, OwnScheduler("", 1000))
    for steps in (1, 2, 3, limit):
        assert _denoised(schedulers.make(sampler.name, steps, CPU)).isfinite().all()
    with pytest.raises(InvalidRequestError, match=f"takes 1 to {limit}$") as caught:
        schedulers.make(sampler.name, limit + 1, CPU)
    assert caught.value.field == "num_inference_steps"


def test_checkpoint_options_unknown_to_a_sampler_log_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    own = diffusers.LCMScheduler.from_config({**TRAINED, "original_inference_steps": 40, "timestep_scaling": 9.0})
    schedulers = Schedulers(own, SAMPLERS, None, AYS_XL)
    diffusers.utils.logging.enable_propagation()
    try:
        for schedule in ("Karras", "SGM Uniform", "Simple"):
            schedulers.make("DPM++ 2M", 4, CPU, schedule)
    finally:
        diffusers.utils.logging.disable_propagation()
    assert not caplog.messages
