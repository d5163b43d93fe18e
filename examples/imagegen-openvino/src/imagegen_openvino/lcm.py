"""Latent consistency sampling (https://arxiv.org/abs/2310.04378), as diffusers' ``LCMScheduler`` does it."""

from __future__ import annotations

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
    """The scheduler of one model; it keeps nothing between steps."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Prepare for a model.

        Args:
            config: The whole configuration of an ``LCMScheduler``.

        Raises:
            ModelLoadError: It asks for what is not known here.
        """
        for name, known in _KNOWN.items():
            if config[name] not in known:
                raise ModelLoadError(
                    f"The model's scheduler has {name}={config[name]!r}, and only {', '.join(map(str, known))} is known "
                    "here: draw it with another backend"
                )
        self._config = config
        betas = _betas(config)
        self._alphas = np.cumprod(1 - betas)  # of the signal in the noisy latents, by timestep: squared in the paper

    def timesteps(self, steps: int) -> npt.NDArray[np.int64]:
        """The timesteps of so many steps, from noise to picture: evenly spaced among those that were distilled.

        Raises:
            InvalidRequestError: There are not so many.
        """
        distilled: int = self._config["original_inference_steps"]
        if steps > distilled:
            raise InvalidRequestError(
                f"Invalid num_inference_steps {steps}: the LCM scheduler takes 1 to {distilled}", "num_inference_steps"
            )
        skipped = self._config["num_train_timesteps"] // distilled
        schedule = (np.arange(1, distilled + 1) * skipped - 1)[::-1]
        return schedule[np.linspace(0, distilled, num=steps, endpoint=False).astype(np.int64)]

    def step(self, prediction: Floats, latents: Floats, timestep: int, following: int | None, noise: Noise) -> Floats:
        """Go from one timestep's latents to the next one's.

        Args:
            prediction: What the network predicts for `latents`.
            latents: Noisy latents [1, channels, h, w].
            timestep: Theirs.
            following: The next one; None after the last, when the result is the picture's latents.
            noise: Where the next ones' noise is drawn.
        """
        scaled = timestep * self._config["timestep_scaling"]
        skip = _SIGMA_DATA**2 / (scaled**2 + _SIGMA_DATA**2)
        out = scaled / (scaled**2 + _SIGMA_DATA**2) ** 0.5
        denoised = out * self._original(prediction, latents, timestep) + skip * latents
        if following is None:
            return denoised.astype(np.float32)
        signal, deviation = self._rates(following)
        return (signal * denoised + deviation * noise.normal(*latents.shape)).astype(np.float32)

    def _original(self, prediction: Floats, latents: Floats, timestep: int) -> Floats:
        """The clean latents that the prediction means."""
        signal, deviation = self._rates(timestep)
        match self._config["prediction_type"]:
            case "epsilon":
                original = (latents - deviation * prediction) / signal
            case "v_prediction":
                original = signal * latents - deviation * prediction
            case _:
                original = prediction
        limit = self._config["clip_sample_range"] if self._config["clip_sample"] else np.inf
        return np.clip(original, -limit, limit)

    def _rates(self, timestep: int) -> tuple[float, float]:
        """By how much signal and noise are multiplied in a timestep's latents."""
        alpha = float(self._alphas[timestep])
        return alpha**0.5, (1 - alpha) ** 0.5


def _betas(config: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    start, end, count = config["beta_start"], config["beta_end"], config["num_train_timesteps"]
    if config["beta_schedule"] == "linear":
        return np.linspace(start, end, count)
    return np.linspace(start**0.5, end**0.5, count) ** 2
