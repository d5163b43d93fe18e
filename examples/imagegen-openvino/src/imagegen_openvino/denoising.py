"""The state of a request between two steps, and the forward pass for several requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from imagegen_core import ResolvedRequest, StepDone
from imagegen_openvino.lcm import Lcm
from imagegen_openvino.noise import Floats, Noise
from imagegen_openvino.runtime import Network
from imagegen_openvino.text import Conditioning


@dataclass
class Denoising:
    """A request between two steps.

    Attributes:
        request: The resolved request.
        scheduler: The scheduler of its steps.
        timesteps: The timesteps from noise to picture.
        noise: The generator for all noise of this picture.
        latents: Noisy latents [1, 4, height / 8, width / 8].
        conditionings: The prompt's; with classifier-free guidance, the negative prompt's first.
        on_step: Called after each step.
        index: The number of completed steps.
        failure: The error of this request in its last step, if any.
    """

    request: ResolvedRequest
    scheduler: Lcm
    timesteps: npt.NDArray[np.int64]
    noise: Noise
    latents: Floats
    conditionings: tuple[Conditioning, ...]
    on_step: Callable[[StepDone], None] | None = None
    index: int = 0
    failure: Exception | None = None

    @property
    def steps_left(self) -> int:
        """The number of remaining steps; at 0 the latents are final."""
        return len(self.timesteps) - self.index

    @property
    def rows(self) -> int:
        """The request's number of rows in a forward pass: one row for each conditioning."""
        return len(self.conditionings)

    def advance(self, prediction: Floats) -> None:
        """Take one step with the UNet's prediction, one row for each conditioning, or keep the error as `failure`."""
        if len(prediction) > 1:
            negative, positive = prediction[:1], prediction[1:]
            prediction = negative + self.request.guidance_scale * (positive - negative)
        timestep, *later = (int(value) for value in self.timesteps[self.index : self.index + 2])
        try:
            following = later[0] if later else None
            self.latents = self.scheduler.step(prediction, self.latents, timestep, following, self.noise)
            self.index += 1
            if self.on_step:
                self.on_step(StepDone(self.index, len(self.timesteps)))
        except Exception as error:  # noqa: BLE001 - any error here concerns this request alone
            self.failure = error


def predict(unet: Network, states: Sequence[Denoising], filled: int | None = None) -> list[Floats]:
    """Return the UNet's prediction for each state's next step, in one forward pass.

    Args:
        unet: The network.
        states: Requests of one size; their timesteps and guidance may differ.
        filled: The number of rows to fill the pass up to; None leaves the states with their own rows.
    """
    rows = [(state, conditioning) for state in states for conditioning in state.conditionings]
    rows += rows[-1:] * ((filled or 0) - len(rows))
    inputs: dict[str, np.ndarray[Any, Any]] = {
        "latents": np.concatenate([state.latents for state, _ in rows]),
        "timesteps": np.array([state.timesteps[state.index] for state, _ in rows]),
        "tokens": np.concatenate([conditioning.tokens for _, conditioning in rows]),
    }
    pooled = [conditioning.pooled for _, conditioning in rows if conditioning.pooled is not None]
    if pooled:
        inputs["pooled"] = np.concatenate(pooled)
        inputs["time_ids"] = np.array([_time_ids(state.request) for state, _ in rows])
    (predictions,) = unet(**inputs)
    ends = np.cumsum([state.rows for state in states])
    return np.split(predictions[: ends[-1]], ends[:-1])


def _time_ids(request: ResolvedRequest) -> list[int]:
    """Return the original size, crop corner and target size, each as height, width."""
    height, width = request.size.height, request.size.width
    return [height, width, 0, 0, height, width]
