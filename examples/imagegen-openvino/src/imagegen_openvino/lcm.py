"""Latent consistency sampling (https://arxiv.org/abs/2310.04378), as in diffusers' ``LCMScheduler``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from imagegen_core import InvalidRequestError, ModelLoadError
from imagegen_openvino.noise import Floats, Noise

_SIGMA_DATA = 0.5  # of the paper's boundary condition, section 3
_KNOWN = {
    "trained_betas": (None,),
    "beta_schedule": ("linear", "scaled_linear"),
    "rescale_betas_zero_snr": (False,),
    "thresholding": (False,),
    "prediction_type": ("epsilon", "sample", "v_prediction"),
}


class Lcm:
    """The scheduler of one model; it keeps no state between steps."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Prepare for a model.

        Args:
            config: The whole configuration of an ``LCMScheduler``.

        Raises:
            ModelLoadError: The configuration asks for something unsupported.
        """
        for name, known in _KNOWN.items():
            if config[name] not in known:
                raise ModelLoadError(
                    f"The model's scheduler has {name}={config[name]!r}, and known here is only "
                    f"{', '.join(map(str, known))}: draw it with another backend"
                )
        self._distilled: int = config["original_inference_steps"]
        self._skipped: int = config["num_train_timesteps"] // self._distilled
        self._scaling: float = config["timestep_scaling"]
        self._predicts: str = config["prediction_type"]
        self._limit: float = config["clip_sample_range"] if config["clip_sample"] else math.inf
        self._alphas = np.cumprod(
            1 - _betas(config)
        )  # the signal's share in noisy latents, by timestep; squared in the paper

    def timesteps(self, steps: int) -> npt.NDArray[np.int64]:
        """Return timesteps from noise to picture, evenly spaced among the distilled timesteps.

        Raises:
            InvalidRequestError: There are fewer distilled timesteps than `steps`.
        """
        if steps > self._distilled:
            raise InvalidRequestError(
                f"Invalid num_inference_steps {steps}: the LCM scheduler takes 1 to {self._distilled}",
                "num_inference_steps",
            )
        places = np.linspace(0, self._distilled, num=steps, endpoint=False).astype(np.int64)
        return (self._distilled - places) * self._skipped - 1

    def step(self, prediction: Floats, latents: Floats, timestep: int, following: int | None, noise: Noise) -> Floats:
        """Go from one timestep's latents to the next timestep's.

        Args:
            prediction: The network's prediction for `latents`.
            latents: Noisy latents [1, channels, h, w].
            timestep: The timestep of `latents`.
            following: The next timestep; None after the last, if the result is the picture's latents.
            noise: The source of the next timestep's noise.
        """
        scaled = timestep * self._scaling
        skip = _SIGMA_DATA**2 / (scaled**2 + _SIGMA_DATA**2)
        out = scaled / (scaled**2 + _SIGMA_DATA**2) ** 0.5
        denoised = self._original(prediction, latents, timestep) * np.float32(out) + latents * np.float32(skip)
        if following is None:
            return denoised
        signal, deviation = self._rates(following)
        return denoised * signal + noise.normal(*latents.shape) * deviation

    def _original(self, prediction: Floats, latents: Floats, timestep: int) -> Floats:
        """Return the clean latents for a prediction."""
        signal, deviation = self._rates(timestep)
        original: npt.NDArray[np.floating]
        match self._predicts:
            case "epsilon":
                original = (latents - prediction * deviation) / signal
            case "v_prediction":
                original = latents * signal - prediction * deviation
            case _:
                original = prediction
        return original.clip(-self._limit, self._limit).astype(np.float32, copy=False)

    def _rates(self, timestep: int) -> tuple[np.float32, np.float32]:
        """Return the factors of signal and noise in a timestep's latents."""
        alpha = self._alphas[timestep]
        return np.float32(alpha**0.5), np.float32((1 - alpha) ** 0.5)


def _betas(config: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    power = {"linear": 1.0, "scaled_linear": 2.0}[config["beta_schedule"]]
    start, end = (float(config[name]) ** (1 / power) for name in ("beta_start", "beta_end"))
    return np.power(np.linspace(start, end, config["num_train_timesteps"]), power)
