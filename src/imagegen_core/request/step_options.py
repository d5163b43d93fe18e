"""The options of a request for each denoising step."""

from __future__ import annotations

from dataclasses import dataclass, fields

from imagegen_core.request.checks import number

_MAX_CHURN = _MAX_NOISE = 100.0  # as in ComfyUI's samplers (comfy_extras/nodes_custom_sampler.py)
_MAX_NOISE_LEVEL = 1e6  # above the noise levels of all schedules
_HIGHEST = {
    "eta": 1.0,
    "s_churn": _MAX_CHURN,
    "s_tmin": _MAX_NOISE_LEVEL,
    "s_tmax": _MAX_NOISE_LEVEL,
    "s_noise": _MAX_NOISE,
}


@dataclass(frozen=True, slots=True)
class StepOptions:
    """Options for each denoising step, if the sampler supports them; None leaves an option unset.

    Attributes:
        eta: The share of fresh noise in a step, from 0 to 1: https://arxiv.org/abs/2010.02502, equation 16.
        s_churn: The amount of noise to add before a step and remove in it, from 0 to 100. For this and the
            following options see https://arxiv.org/abs/2206.00364, algorithm 2.
        s_tmin: The lowest noise level for `s_churn` to add noise.
        s_tmax: The highest noise level for `s_churn` to add noise.
        s_noise: The standard deviation of the added noise, from 0 to 100.
    """

    eta: float | None = None
    s_churn: float | None = None
    s_tmin: float | None = None
    s_tmax: float | None = None
    s_noise: float | None = None

    @classmethod
    def of(cls, request: object) -> StepOptions:
        """Validate a request's step options.

        Raises:
            InvalidRequestError: A value is out of range.
        """
        return cls(**{name: number(name, getattr(request, name, None), high) for name, high in _HIGHEST.items()})

    def given(self) -> dict[str, float]:
        """Return the options that are set."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}
