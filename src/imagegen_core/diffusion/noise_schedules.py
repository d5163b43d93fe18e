"""Compute the noise levels of schedules by formula, for schedulers without an option for them.

The formulas are those of A1111's ``modules/sd_schedulers.py`` (1.10). Each takes the noise levels of the training,
rising. Each returns the levels of the steps, falling, without the zero at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

Sigmas = npt.NDArray[np.float64]
Table = Callable[[Sigmas, int], Sigmas]

_RHO = 7.0  # https://arxiv.org/abs/2206.00364
_SHAPE = 0.6  # of the beta distribution, on both sides: https://arxiv.org/abs/2407.12173
_TERMS, _HALVINGS = 60, 60  # enough for the last bit of a double


def normal(trained: Sigmas, steps: int) -> Sigmas:
    """Space the levels evenly from the last trained timestep to the first."""
    return sigmas_at(trained, np.linspace(len(trained) - 1, 0, steps))


def sgm_uniform(trained: Sigmas, steps: int) -> Sigmas:
    """Use the trailing timesteps of https://arxiv.org/abs/2305.08891, table 2, as diffusers rounds them."""
    places = len(trained) - np.arange(steps) * len(trained) / steps
    return np.asarray(trained[places.round().astype(int) - 1])


def simple(trained: Sigmas, steps: int) -> Sigmas:
    """Pick trained levels at equal distances, starting with the last."""
    return trained[[-1 - int(step * len(trained) / steps) for step in range(steps)]]


def ddim(trained: Sigmas, steps: int) -> Sigmas:
    """Pick trained levels at equal distances, starting with the second; there may be more steps than requested."""
    return trained[1 :: max(len(trained) // steps, 1)][::-1]


def karras(trained: Sigmas, steps: int) -> Sigmas:
    """Space the levels evenly in the seventh root: equation 5 of https://arxiv.org/abs/2206.00364."""
    low, high = trained[0] ** (1 / _RHO), trained[-1] ** (1 / _RHO)
    return np.asarray(np.linspace(high, low, steps) ** _RHO)


def exponential(trained: Sigmas, steps: int) -> Sigmas:
    """Space the levels evenly in the logarithm."""
    return np.exp(np.linspace(math.log(trained[-1]), math.log(trained[0]), steps))


def beta(trained: Sigmas, steps: int) -> Sigmas:
    """Use the quantiles of a beta distribution: most of the steps are at both ends."""
    return np.asarray(trained[0] + beta_quantiles(1 - np.linspace(0, 1, steps)) * (trained[-1] - trained[0]))


def align_your_steps(ten_steps: Sequence[float]) -> Table:
    """Return a table of NVIDIA's levels for ten steps, interpolated in the logarithm for other numbers of steps.

    The levels: https://research.nvidia.com/labs/toronto-ai/AlignYourSteps/howto.html. A1111 divides the same curve by
    one step less, and so misses the published levels at ten steps.

    Args:
        ten_steps: The eleven published levels; the last stands for zero.
    """

    def table(_: Sigmas, steps: int) -> Sigmas:
        places = np.linspace(0, len(ten_steps) - 1, steps + 1)[:-1]
        return np.exp(np.interp(places, np.arange(len(ten_steps)), np.log(ten_steps)))

    return table


TABLES: Mapping[str, Table] = {
    "Uniform": normal,
    "Karras": karras,
    "Exponential": exponential,
    "SGM Uniform": sgm_uniform,
    "Simple": simple,
    "Normal": normal,
    "DDIM": ddim,
    "Beta": beta,
}
"""The formulas by the schedules' names."""

ON_TIMESTEPS = frozenset({"SGM Uniform", "Simple", "DDIM", "Align Your Steps"})
"""The schedules with levels on whole timesteps."""


def sigmas_at(trained: Sigmas, timesteps: Sigmas) -> Sigmas:
    """Return the levels at fractional timesteps, interpolated in the logarithm as k-diffusion does."""
    return np.exp(np.interp(timesteps, np.arange(len(trained)), np.log(trained)))


def timesteps_at(trained: Sigmas, sigmas: Sigmas) -> Sigmas:
    """Return the timesteps of levels: the inverse of `sigmas_at`."""
    return np.interp(np.log(sigmas), np.log(trained), np.arange(len(trained)))


def beta_quantiles(shares: Sigmas) -> Sigmas:
    """Return the quantiles of a Beta(0.6, 0.6) distribution for these shares, by bisection of its power series.

    The series: https://dlmf.nist.gov/8.17.E7. The distribution is symmetric, so its lower half is enough.
    """
    wanted = np.minimum(shares, 1 - shares) * math.gamma(_SHAPE) ** 2 / math.gamma(2 * _SHAPE)
    low, high = np.zeros_like(wanted), np.full_like(wanted, 0.5)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        is_below = _incomplete_beta(middle) < wanted
        low, high = np.where(is_below, middle, low), np.where(is_below, high, middle)
    quantiles = np.where(wanted > 0, (low + high) / 2, 0.0)
    return np.where(shares > 0.5, 1 - quantiles, quantiles)  # noqa: PLR2004 - a half


def _incomplete_beta(x: Sigmas) -> Sigmas:
    total, coefficient = np.zeros_like(x), 1.0
    for term in range(_TERMS):
        total += coefficient * x**term / (_SHAPE + term)
        coefficient *= (term + 1 - _SHAPE) / (term + 1)
    return x**_SHAPE * total
