"""The prediction type of a checkpoint's network, as the configuration of a diffusers scheduler.

The sources, the strongest first: the setting, marks among a file's tensors, its metadata, the ``.yaml`` next to it, the
configuration of the folder or family. Zero terminal SNR: https://arxiv.org/abs/2305.08891. EDM:
https://arxiv.org/abs/2206.00364.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from imagegen_core.errors import ModelLoadError
from imagegen_core.models.headers import read_header
from imagegen_core.models.prediction import SET_IT, SaidOfNoise, said_of_noise
from imagegen_core.samplers import is_flow
from imagegen_core.settings import PredictionName

State = Mapping[str, Tensor]
PredictionOfWeights = Callable[[State], PredictionName | None]

_CHANGES: Mapping[PredictionName, Mapping[str, Any]] = {
    "epsilon": {"prediction_type": "epsilon", "rescale_betas_zero_snr": False},
    "v": {"prediction_type": "v_prediction", "rescale_betas_zero_snr": False},
    "v-zsnr": {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    "sample": {"prediction_type": "sample", "rescale_betas_zero_snr": False},
}
# Each author's own sampler: https://huggingface.co/playgroundai/playground-v2.5-1024px-aesthetic and
# https://huggingface.co/stabilityai/cosxl.
_EDM: Mapping[PredictionName, tuple[str, Mapping[str, Any]]] = {
    "edm": (
        "EDMDPMSolverMultistepScheduler",
        {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "prediction_type": "epsilon"},
    ),
    "edm-v": (
        "EDMEulerScheduler",
        {
            "sigma_min": 0.002,
            "sigma_max": 120.0,
            "sigma_data": 1.0,
            "prediction_type": "v_prediction",
            "sigma_schedule": "exponential",
        },
    ),
}
_NORMALIZED_SCALE = 0.5  # https://huggingface.co/playgroundai/playground-v2.5-1024px-aesthetic, vae/config.json
_NORMALIZATION = ("scaling_factor", "latents_mean", "latents_std")


def is_edm(scheduler_class: type) -> bool:
    """Return whether a scheduler is of the EDM kind, with its own noise levels."""
    return "sigma_data" in options_of(scheduler_class)


def options_of(scheduler_class: type) -> Container[str]:
    """Return the options of a scheduler class; a configuration may also hold options of earlier classes."""
    return inspect.signature(scheduler_class.__init__).parameters  # type: ignore[misc] # of a class, not of an object


def config_for(scheduler_class: type, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a scheduler's configuration for another class; diffusers warns of the rest and drops it."""
    known = options_of(scheduler_class)
    return {name: value for name, value in config.items() if name in known or name.startswith("_")}


def flow_config(scheduler_class: type, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a flow-matching scheduler for another class.

    Classes that also know diffusion have other names for the shift, and options to choose flow matching.
    """
    shift = config.get("shift", config.get("flow_shift", 1.0))
    if "use_flow_sigmas" not in options_of(scheduler_class):
        return {**config, "shift": shift}
    return {**config, "use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift}


def check_noise(path: Path, scheduler: Any, *, flow_matching: bool = False) -> None:
    """Check that samplers can use the noise levels of a checkpoint's own scheduler.

    Args:
        path: The checkpoint.
        scheduler: Its own scheduler.
        flow_matching: Whether the checkpoint's family is of flow matching.

    Raises:
        ModelLoadError: The scheduler is of another kind.
    """
    name, is_of_flow = type(scheduler).__name__, is_flow(type(scheduler).__name__, scheduler.config)
    if flow_matching and not is_of_flow:
        raise ModelLoadError(
            f"The checkpoint {path} has a {name}, and its family is of flow matching: put the model's own "
            "scheduler/scheduler_config.json back"
        )
    if flow_matching or (not is_of_flow and (hasattr(scheduler, "alphas_cumprod") or is_edm(type(scheduler)))):
        return
    raise ModelLoadError(
        f"The checkpoint {path} was trained for the noise of {name}, which is not drawn with "
        f"here: take a checkpoint that predicts the noise or the velocity. If its scheduler is a mistake, {SET_IT}"
    )


def scheduler_of_file(
    path: Path,
    state: State,
    configs: Path,
    base: Path | None,
    setting: PredictionName | None,
    prediction_of_weights: PredictionOfWeights,
) -> Any:
    """Return the scheduler of a single-file checkpoint.

    Args:
        path: The file.
        state: The file's tensors.
        configs: The family's diffusers-format folder of configurations.
        base: The folder of `Settings.base_model`; its configuration takes precedence over the family's.
        setting: `Settings.prediction`; it takes precedence over the file.
        prediction_of_weights: Tells the prediction type by the weights, if nothing states it.

    Raises:
        ModelLoadError: The file contradicts itself, or asks for an unsupported prediction.
    """
    said = SaidOfNoise() if setting else said_of_noise(path, state, read_header(path).metadata)
    prediction = setting or said.prediction or (None if base else prediction_of_weights(state))
    own = scheduler_of_folder(base or configs, said.noise)
    scheduler = own if prediction is None else with_prediction(own, prediction, configs)
    return (
        type(scheduler).from_config(scheduler.config, **_stated_sigmas(path, state))
        if prediction == "edm-v"
        else scheduler
    )


def scheduler_of_folder(folder: Path, changes: Mapping[str, Any] | None = None) -> Any:
    """Return the scheduler of a diffusers-format folder's ``scheduler_config.json``, with `changes` to it."""
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    return _diffusers_class(index["scheduler"][1]).from_config({**config, **(changes or {})})


def with_prediction(own: Any, prediction: PredictionName, configs: Path) -> Any:
    """Return a checkpoint's scheduler for another prediction type.

    Args:
        own: The checkpoint's scheduler.
        prediction: The network's prediction type.
        configs: The family's folder of configurations, if an EDM scheduler lacks them.
    """
    if prediction in _EDM:
        class_name, config = _EDM[prediction]
        if is_edm(type(own)) and own.config.prediction_type == config["prediction_type"]:
            return own
        return _diffusers_class(class_name)(**config)
    if not hasattr(own, "alphas_cumprod"):
        own = scheduler_of_folder(configs)
    return type(own).from_config({**own.config, **_CHANGES[prediction]})


def normalize_latents(path: Path, vae: Any, state: State) -> None:
    """Make a VAE undo the normalization of latents that a file stores as ``edm_mean`` and ``edm_std``.

    Raises:
        ModelLoadError: They are not one finite number for each of the VAE's channels.
    """
    if "edm_mean" in state and "edm_std" in state:
        mean, std = (state[name].float().flatten() for name in ("edm_mean", "edm_std"))
        channels = vae.config.latent_channels
        if not all(len(values) == channels and values.isfinite().all() for values in (mean, std)):
            raise ModelLoadError(
                f"Cannot load the checkpoint {path}: its edm_mean and edm_std must have {channels} finite numbers "
                "each; download it again"
            )
        vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist(), scaling_factor=_NORMALIZED_SCALE)


def take_normalization(vae: Any, config: Mapping[str, Any]) -> None:
    """Make a VAE undo the normalization in the replaced VAE's config, because the network was trained with it."""
    if config.get("latents_mean") is not None:
        vae.register_to_config(**{name: config[name] for name in _NORMALIZATION if name in config})


def _diffusers_class(name: str) -> Any:
    import diffusers

    return getattr(diffusers, name)


def _stated_sigmas(path: Path, state: State) -> dict[str, float]:
    """Return the noise levels that a file states."""
    sigmas = {
        field: float(state[key])
        for field in ("sigma_min", "sigma_max")
        if (key := f"edm_vpred.{field}") in state and state[key].numel() == 1
    }
    low, high = sigmas.get("sigma_min", 0.002), sigmas.get("sigma_max", 120.0)
    if not (0 < low < high and math.isfinite(high)):
        raise ModelLoadError(
            f"Cannot load the checkpoint {path}: its edm_vpred.sigma_min is {low:g} and its sigma_max {high:g}; "
            f"expected numbers above 0, the first the smaller. If that is a mistake, {SET_IT}"
        )
    return sigmas
