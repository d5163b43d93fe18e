"""A checkpoint's prediction type, from a setting, keys, metadata, a .yaml file or a folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from imagegen_core import GenerateRequest, ModelLoadError, Registry, ResolvedRequest, Settings, generate, read_recipe
from imagegen_core.diffusion.prediction import scheduler_of_file, with_prediction
from imagegen_core.diffusion.scheduling import Schedulers
from imagegen_core.errors import InvalidRequestError
from imagegen_core.hosting.model_card import ModelCard
from imagegen_core.models.prediction import own_scheduler
from imagegen_core.modes import load_modes
from imagegen_core.samplers import SAMPLERS
from imagegen_core.settings import PredictionName
from imagegen_sd15 import DiffusersCudaWorker
from imagegen_sd15.prediction import prediction_of_weights
from imagegen_sdxl import DiffusersSDXLCudaWorker
from tests.layouts import ldm_state

MARK = torch.zeros(0)
V: dict[str, Any] = {"prediction_type": "v_prediction"}
V_ZSNR: dict[str, Any] = V | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
EPSILON: dict[str, Any] = {"prediction_type": "epsilon"}
# From the READMEs of stabilityai/cosxl and playgroundai/playground-v2.5-1024px-aesthetic.
COSXL = {"edm_vpred.sigma_max": torch.tensor(120.0), "edm_vpred.sigma_min": torch.tensor(0.002)}
COSXL_SCHEDULER: dict[str, Any] = {
    "sigma_data": 1.0,
    "prediction_type": "v_prediction",
    "sigma_schedule": "exponential",
}
PLAYGROUND = {
    "edm_mean": torch.tensor([-1.6574, 1.886, -1.383, 2.5155]).reshape(1, 4, 1, 1),
    "edm_std": torch.tensor([8.4927, 5.9022, 6.5498, 5.2299]).reshape(1, 4, 1, 1),
}

Save = Callable[..., Path]


@pytest.fixture(scope="module")
def plain(sdxl_checkpoint: Path) -> Any:
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(sdxl_checkpoint, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def save(plain: Any, tmp_path: Path) -> Save:
    """A function to save the checkpoint as a single file with additional keys and metadata."""

    def file(keys: dict[str, torch.Tensor] | None = None, metadata: dict[str, str] | None = None) -> Path:
        path = tmp_path / "model.safetensors"
        save_file(ldm_state(plain) | (keys or {}), path, metadata=metadata)
        return path

    return file


@pytest.fixture
def load(sdxl_checkpoint: Path) -> Callable[..., Any]:
    def worker(model: Path, **settings: Any) -> Any:
        base = {} if model.is_dir() else {"base_model": sdxl_checkpoint}
        return DiffusersSDXLCudaWorker(
            settings=Settings(model=str(model), device="cpu", dtype="fp32", **base, **settings)
        )

    return worker


def _drawn(worker: Any, **fields: Any) -> np.ndarray[Any, Any]:
    return np.asarray(generate("a lake", worker=worker, seed=5, guidance_scale=3.0, size="64x64", **fields).image, int)


def _expected(
    plain: Any, scheduler: Any, steps: int = 4, vae: dict[str, Any] | None = None, **options: Any
) -> np.ndarray[Any, Any]:
    """The plain pipeline's picture with this scheduler, and with these changes to the VAE's configuration."""
    original, configured = plain.scheduler, dict(plain.vae.config)
    plain.scheduler = scheduler
    plain.vae.register_to_config(**(vae or {}))
    try:
        picture = plain(
            "a lake",
            generator=torch.Generator("cpu").manual_seed(5),
            num_inference_steps=steps,
            guidance_scale=3.0,
            width=64,
            height=64,
            **options,
        ).images[0]
    finally:
        plain.scheduler = original
        plain.vae.register_to_config(**{name: configured.get(name) for name in vae or {}})
    return np.asarray(picture, int)


def _lcm(plain: Any, changes: dict[str, Any]) -> Any:
    return diffusers.LCMScheduler.from_config({**plain.scheduler.config, **changes})


def _difference(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> int:
    return int(np.abs(first - second).max())


SOURCES: dict[str, tuple[dict[str, Any], dict[str, str], str, dict[str, Any]]] = {
    "the key v_pred": ({"v_pred": MARK}, {}, "", V),
    "the keys v_pred and ztsnr": ({"v_pred": MARK, "ztsnr": MARK}, {}, "", V_ZSNR),
    "modelspec": ({}, {"modelspec.prediction_type": "v"}, "", V),
    "modelspec as ComfyUI writes it": ({}, {"modelspec.predict_key": "v"}, "", V),
    "modelspec with the default": ({}, {"modelspec.prediction_type": "epsilon"}, "", EPSILON),
    "kohya": ({}, {"ss_v_parameterization": "True", "ss_zero_terminal_snr": "False"}, "", V),
    "kohya with zero terminal SNR": ({}, {"ss_v_parameterization": "True", "ss_zero_terminal_snr": "True"}, "", V_ZSNR),
    "kohya without v-prediction": ({}, {"ss_v_parameterization": "False"}, "", EPSILON),
    "a yaml": ({}, {}, "model: {params: {parameterization: v}}", V),
    "a yaml with other betas": (
        {},
        {},
        "model: {params: {linear_start: 0.001, linear_end: 0.01}}",
        {"beta_start": 0.001, "beta_end": 0.01},
    ),
    "a yaml of generative-models": (
        {},
        {},
        "model: {params: {denoiser_config: {params: {scaling_config: {target: sgm.denoiser_scaling.VScaling}}}}}",
        V,
    ),
    "an unrelated yaml": ({}, {}, "tags: [landscape]", EPSILON),
    "keys before metadata": ({"v_pred": MARK}, {"modelspec.prediction_type": "epsilon"}, "", V),
    "metadata before a yaml": (
        {},
        {"modelspec.prediction_type": "epsilon"},
        "model: {params: {parameterization: v}}",
        EPSILON,
    ),
}


@pytest.mark.parametrize(("keys", "metadata", "yaml", "changes"), SOURCES.values(), ids=SOURCES)
def test_a_file_is_drawn_with_its_own_prediction_type(
    plain: Any, save: Save, load: Any, keys: Any, metadata: Any, yaml: str, changes: dict[str, Any]
) -> None:
    path = save(keys, metadata)
    if yaml:
        path.with_suffix(".yaml").write_text(yaml)
    assert _difference(_drawn(load(path)), _expected(plain, _lcm(plain, changes))) <= 1


def test_the_comparison_can_fail(plain: Any) -> None:
    pictures = [_expected(plain, _lcm(plain, changes)) for changes in (EPSILON, V, V_ZSNR)]
    assert min(_difference(first, second) for first, second in pairwise(pictures)) > 1


@pytest.mark.parametrize(
    ("setting", "changes"),
    [("epsilon", EPSILON), ("v", V), ("v-zsnr", V_ZSNR), ("sample", {"prediction_type": "sample"})],
)
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_the_setting_overrides_the_checkpoint(
    plain: Any, save: Save, load: Any, sdxl_checkpoint: Path, kind: str, setting: str, changes: dict[str, Any]
) -> None:
    path = save({"v_pred": MARK}, {"modelspec.prediction_type": "nix"}) if kind == "file" else sdxl_checkpoint
    assert _difference(_drawn(load(path, prediction=setting)), _expected(plain, _lcm(plain, changes))) <= 1


def test_the_recipe_contains_the_configured_prediction(load: Any, sdxl_checkpoint: Path) -> None:
    drawn = generate("a lake", worker=load(sdxl_checkpoint, prediction="v"), num_inference_steps=1)
    assert read_recipe(drawn.png).prediction == "v"


def test_modes_with_different_predictions_are_different_models() -> None:
    tables = {
        "one": {"model": "a"},
        "two": {"model": "a", "prediction": "v"},
        "three": {"model": "a", "prediction": "v"},
    }
    modes = load_modes(Settings(modes=tables)).modes
    assert modes["one"].key != modes["two"].key == modes["three"].key
    assert modes["two"].settings.prediction == "v"


REFUSED: dict[str, tuple[dict[str, Any], dict[str, str], str, str]] = {
    "unknown": (
        {},
        {"modelspec.prediction_type": "flow"},
        "",
        "modelspec.prediction_type is 'flow'; expected one of epsilon",
    ),
    "contradiction": (
        {},
        {"modelspec.prediction_type": "epsilon", "ss_v_parameterization": "True"},
        "",
        "modelspec.prediction_type and ss_v_parameterization contradict each other",
    ),
    "ztsnr alone": ({"ztsnr": MARK}, {}, "", "the key ztsnr says that it starts from pure noise"),
    "zero SNR alone": (
        {},
        {"ss_zero_terminal_snr": "True"},
        "",
        "ss_zero_terminal_snr says that it starts from pure noise",
    ),
    "a negative sigma": (
        {"edm_vpred.sigma_max": torch.tensor(-1.0)},
        {},
        "",
        "expected numbers above 0, the first the smaller",
    ),
    "half a normalization": ({"edm_mean": torch.zeros(4)}, {}, "", "it has only edm_mean of edm_mean and edm_std"),
    "a wrong normalization": (
        {"edm_mean": torch.zeros(3), "edm_std": torch.ones(4)},
        {},
        "",
        "must have 4 finite numbers",
    ),
    "an unknown yaml": (
        {},
        {},
        "model: {params: {parameterization: w}}",
        "parameterization is 'w'; expected one of eps, v, x0",
    ),
    "a yaml with an unknown beta schedule": (
        {},
        {},
        "model: {params: {beta_schedule: cosine}}",
        "beta_schedule is 'cosine'",
    ),
    "a yaml with a negative number": (
        {},
        {},
        "model: {params: {linear_start: -1}}",
        "linear_start is -1; expected a number above 0",
    ),
    "a malformed yaml": ({}, {}, "model: {params: [", "is not valid YAML"),
    "a deep yaml": ({}, {}, "[" * 100_000, "is not valid YAML"),
    "a large yaml": ({}, {}, "#" * 1_000_001, "it has more than 1000000 bytes"),
}


@pytest.mark.parametrize(("keys", "metadata", "yaml", "words"), REFUSED.values(), ids=REFUSED)
def test_invalid_prediction_data_is_refused_in_one_line(
    save: Save, load: Any, keys: Any, metadata: Any, yaml: str, words: str
) -> None:
    path = save(keys, metadata)
    if yaml:
        path.with_suffix(".yaml").write_text(yaml)
    with pytest.raises(ModelLoadError) as caught:
        load(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_yaml_library_is_named(save: Save, load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save()
    path.with_suffix(".yaml").write_text("model: {params: {parameterization: v}}")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ModelLoadError, match=r"pip install pyyaml, or set IMAGEGEN_PREDICTION"):
        load(path)
    assert load(path, prediction="v").own_scheduler.class_name == "EulerDiscreteScheduler"


def test_cosxl_is_drawn_with_its_own_sampler(plain: Any, save: Save, load: Any) -> None:
    worker = load(save(COSXL))
    scheduler = diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=120.0, **COSXL_SCHEDULER)
    assert _difference(_drawn(worker), _expected(plain, scheduler)) <= 1
    assert _difference(_drawn(worker, scheduler="EDM Euler"), _expected(plain, scheduler)) <= 1
    multistep = diffusers.EDMDPMSolverMultistepScheduler(sigma_min=0.002, sigma_max=120.0, **COSXL_SCHEDULER)
    drawn = _drawn(worker, scheduler="EDM DPM++ 2M", num_inference_steps=6)
    assert _difference(drawn, _expected(plain, multistep, steps=6)) <= 1


def test_a_cosxl_files_own_noise_levels_are_used(plain: Any, save: Save, load: Any) -> None:
    keys = {"edm_vpred.sigma_max": torch.tensor(80.0), "edm_vpred.sigma_min": torch.tensor(0.01)}
    scheduler = diffusers.EDMEulerScheduler(sigma_min=0.01, sigma_max=80.0, **COSXL_SCHEDULER)
    assert _difference(_drawn(load(save(keys))), _expected(plain, scheduler)) <= 1


@pytest.mark.parametrize(("schedule", "sigma_schedule"), [("Karras", "karras"), ("Exponential", "exponential")])
def test_edm_samplers_accept_only_their_two_schedules(
    plain: Any, save: Save, load: Any, schedule: str, sigma_schedule: str
) -> None:
    scheduler = diffusers.EDMEulerScheduler(
        sigma_min=0.002, sigma_max=120.0, **COSXL_SCHEDULER | {"sigma_schedule": sigma_schedule}
    )
    worker = load(save(COSXL))
    assert _difference(_drawn(worker, scheduler="EDM Euler", schedule=schedule), _expected(plain, scheduler)) <= 1
    with pytest.raises(InvalidRequestError, match="the EDM Euler scheduler takes Automatic, Karras, Exponential$"):
        generate("a lake", worker=worker, scheduler="EDM Euler", schedule="Beta")
    with pytest.raises(InvalidRequestError, match="takes 2 or more"):
        generate("a lake", worker=worker, num_inference_steps=1)


def test_playground_is_drawn_with_its_own_sampler_and_normalization(
    plain: Any, save: Save, load: Any, sdxl_checkpoint: Path
) -> None:
    scheduler = diffusers.EDMDPMSolverMultistepScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)
    mean, std = (PLAYGROUND[name].flatten().tolist() for name in PLAYGROUND)
    vae = {"latents_mean": mean, "latents_std": std, "scaling_factor": 0.5}
    expected = _expected(plain, scheduler, vae=vae)
    path = save(PLAYGROUND)
    assert _difference(_drawn(load(path)), expected) <= 1
    assert _difference(_drawn(load(path, vae_path=sdxl_checkpoint / "vae")), expected) <= 1
    assert _difference(expected, _expected(plain, scheduler)) > 1


def test_an_edm_folder_is_drawn_with_its_own_sampler(
    plain: Any, load: Any, sdxl_checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "edm"
    folder.mkdir()
    for entry in sdxl_checkpoint.iterdir():
        if entry.name not in ("scheduler", "model_index.json"):
            (folder / entry.name).symlink_to(entry)
    scheduler = diffusers.EDMDPMSolverMultistepScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)
    scheduler.save_pretrained(folder / "scheduler")
    index = json.loads((sdxl_checkpoint / "model_index.json").read_text())
    (folder / "model_index.json").write_text(
        json.dumps(index | {"scheduler": ["diffusers", "EDMDPMSolverMultistepScheduler"]})
    )
    assert _difference(_drawn(load(folder)), _expected(plain, scheduler)) <= 1
    assert own_scheduler(folder, None).default_sampler == "checkpoint"
    assert _difference(_drawn(load(folder, prediction="epsilon")), _expected(plain, _lcm(plain, EPSILON))) <= 1
    with pytest.raises(InvalidRequestError, match="Invalid scheduler 'LCM': this is an EDM checkpoint"):
        load(folder, scheduler="LCM")


@pytest.mark.parametrize(
    ("keys", "settings", "steps", "words"),
    [
        ({}, {}, 51, "the LCM scheduler takes 1 to 50"),
        ({}, {"scheduler": "DDIM"}, 1000, "the DDIM scheduler takes 1 to 999"),
        (COSXL, {}, 1001, "scheduler takes 1 to 1000"),
        ({}, {"prediction": "edm"}, 1001, "scheduler takes 1 to 1000"),
    ],
)
def test_the_step_limit_is_known_before_the_model_is_loaded(
    save: Save, keys: Any, settings: dict[str, Any], steps: int, words: str
) -> None:
    registry = Registry.discover()
    card = ModelCard.of_files(Settings(model=str(save(keys)), backend="sdxl", **settings), registry)
    samplers = list(registry.samplers.values())
    card.check_sampling(ResolvedRequest.of(GenerateRequest(prompt="", num_inference_steps=steps - 1), "8x8"), samplers)
    with pytest.raises(InvalidRequestError, match=words):
        card.check_sampling(ResolvedRequest.of(GenerateRequest(prompt="", num_inference_steps=steps), "8x8"), samplers)


def test_a_flow_matching_folder_is_refused_without_a_prediction_setting(
    load: Any, sdxl_checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "flow"
    folder.mkdir()
    for entry in sdxl_checkpoint.iterdir():
        if entry.name not in ("scheduler", "model_index.json"):
            (folder / entry.name).symlink_to(entry)
    diffusers.FlowMatchEulerDiscreteScheduler().save_pretrained(folder / "scheduler")
    index = json.loads((sdxl_checkpoint / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "FlowMatchEulerDiscreteScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelLoadError, match="trained for the noise of FlowMatchEulerDiscreteScheduler"):
        load(folder)
    assert _drawn(load(folder, prediction="epsilon")) is not None


ZERO_SNR = ("LCM", "Euler", "Euler a", "DPM++ 2M", "DPM++ 2M SDE", "DDIM", "DDPM", "UniPC", "TCD")
EDM = ("EDM Euler", "EDM DPM++ 2M")
OTHERS = tuple(sampler.name for sampler in SAMPLERS if sampler.name not in EDM)


@pytest.mark.parametrize(
    ("prediction", "supported"),
    [
        ("v-zsnr", {*ZERO_SNR, "Euler Karras", "DPM++ 2M Karras", "DPM++ 2M SDE Karras"}),
        ("edm", set(EDM)),
        ("edm-v", set(EDM)),
        ("v", set(OTHERS)),
        # The excluded schedulers' step raises NotImplementedError or ValueError for prediction_type="sample".
        ("sample", {name for name in OTHERS if not name.startswith(("Euler a", "DPM2", "PLMS"))}),
    ],
)
def test_samplers_unsuitable_for_the_prediction_are_refused_by_name(
    plain: Any, prediction: PredictionName, supported: set[str]
) -> None:
    own = with_prediction(plain.scheduler, prediction, DiffusersSDXLCudaWorker.configs)
    schedulers = Schedulers(own, SAMPLERS, None)
    for sampler in SAMPLERS:
        if sampler.name in supported:
            schedulers.make(sampler.name, 2, torch.device("cpu"))
            continue
        with pytest.raises(InvalidRequestError) as caught:
            schedulers.make(sampler.name, 2, torch.device("cpu"))
        assert str(caught.value).startswith(f"Invalid scheduler {sampler.name!r}: ")
        assert str(caught.value).partition("expected one of ")[2].split(", ") == [
            other.name for other in SAMPLERS if other.name in supported
        ]


@pytest.mark.parametrize("sampler", ZERO_SNR)
def test_zero_terminal_snr_equals_plain_diffusers(plain: Any, load: Any, sdxl_checkpoint: Path, sampler: str) -> None:
    definition = next(candidate for candidate in SAMPLERS if candidate.name == sampler)
    scheduler = getattr(diffusers, definition.class_name).from_config(
        {**plain.scheduler.config, **V_ZSNR}, **definition.options
    )
    drawn = _drawn(load(sdxl_checkpoint, prediction="v-zsnr"), scheduler=sampler, num_inference_steps=5)
    assert _difference(drawn, _expected(plain, scheduler, steps=5)) <= 1


@pytest.mark.parametrize(("spread", "expected"), [(0.2, "v_prediction"), (0.01, "epsilon")])
def test_stable_diffusion_2s_prediction_is_detected_from_its_weights(
    tmp_path: Path, spread: float, expected: str
) -> None:
    prefix = "model.diffusion_model."
    state = {
        f"{prefix}input_blocks.0.0.weight": torch.zeros(8, 4, 3, 3),
        f"{prefix}output_blocks.11.1.transformer_blocks.0.norm1.bias": spread * torch.randn(320),
        f"{prefix}output_blocks.11.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(8, 1024),
    }
    path = tmp_path / "sd2.safetensors"
    save_file(state, path)
    configs = DiffusersCudaWorker.configs
    assert scheduler_of_file(path, state, configs, None, None, prediction_of_weights).config.prediction_type == expected
    assert (
        scheduler_of_file(path, state, configs, None, "sample", prediction_of_weights).config.prediction_type
        == "sample"
    )
    inpainting = state | {f"{prefix}input_blocks.0.0.weight": torch.zeros(8, 9, 3, 3)}
    assert (
        scheduler_of_file(path, inpainting, configs, None, None, prediction_of_weights).config.prediction_type
        == "epsilon"
    )
