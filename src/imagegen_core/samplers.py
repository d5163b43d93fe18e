"""The samplers a request can name: diffusers' schedulers under the names that A1111's users know."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from imagegen_core.errors import InvalidRequestError

CHECKPOINT_CHOICE = "checkpoint"
"""Stands for the scheduler that the checkpoint itself came with."""


@dataclass(frozen=True, slots=True)
class Sampler:
    """A scheduler with its options, described without importing it.

    Attributes:
        name: What requests and pictures' recipes call it, such as ``DPM++ 2M Karras``.
        scheduler: ``module:Class`` of a diffusers scheduler. The first sampler of a class also answers to the
            class's name.
        options: What its configuration overrides in the checkpoint's.
    """

    name: str
    scheduler: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def class_name(self) -> str:
        """The scheduler's class, such as ``EulerDiscreteScheduler``."""
        return self.scheduler.partition(":")[2]


def _diffusers(name: str, class_name: str, **options: Any) -> Sampler:
    return Sampler(name, f"diffusers:{class_name}", options)


# Which class and options are which of A1111's names: https://huggingface.co/docs/diffusers/api/schedulers/overview
SAMPLERS = (
    _diffusers("LCM", "LCMScheduler"),
    _diffusers("Euler", "EulerDiscreteScheduler"),
    _diffusers("Euler Karras", "EulerDiscreteScheduler", use_karras_sigmas=True),
    _diffusers("Euler a", "EulerAncestralDiscreteScheduler"),
    _diffusers("DPM++ 2M", "DPMSolverMultistepScheduler"),
    _diffusers("DPM++ 2M Karras", "DPMSolverMultistepScheduler", use_karras_sigmas=True),
    _diffusers("DPM++ 2M SDE", "DPMSolverMultistepScheduler", algorithm_type="sde-dpmsolver++"),
    _diffusers(
        "DPM++ 2M SDE Karras",
        "DPMSolverMultistepScheduler",
        algorithm_type="sde-dpmsolver++",
        use_karras_sigmas=True,
    ),
    # lower_order_final is what this one switches to by itself, with a warning, wherever it matters.
    _diffusers("DPM++ SDE", "DPMSolverSinglestepScheduler", lower_order_final=True),
    _diffusers("DPM++ SDE Karras", "DPMSolverSinglestepScheduler", lower_order_final=True, use_karras_sigmas=True),
    _diffusers("DPM2", "KDPM2DiscreteScheduler"),
    _diffusers("DPM2 Karras", "KDPM2DiscreteScheduler", use_karras_sigmas=True),
    _diffusers("DPM2 a", "KDPM2AncestralDiscreteScheduler"),
    _diffusers("DPM2 a Karras", "KDPM2AncestralDiscreteScheduler", use_karras_sigmas=True),
    _diffusers("Heun", "HeunDiscreteScheduler"),
    _diffusers("DDIM", "DDIMScheduler"),
    _diffusers("DDPM", "DDPMScheduler"),
    _diffusers("PLMS", "PNDMScheduler", skip_prk_steps=True),
    _diffusers("DEIS", "DEISMultistepScheduler"),
    _diffusers("UniPC", "UniPCMultistepScheduler"),
    _diffusers("TCD", "TCDScheduler"),
)


def find_sampler(name: str, offered: Iterable[Sampler]) -> Sampler:
    """The sampler that `name` means; case, spaces, hyphens and underscores do not matter.

    Args:
        name: A sampler's name, or a scheduler class's.
        offered: The samplers to look through.

    Raises:
        InvalidRequestError: None of them is called so.
    """
    offered = list(offered)
    wanted = _plain(name)
    for sampler in offered:
        if wanted == _plain(sampler.name):
            return sampler
    for sampler in offered:
        if wanted == _plain(sampler.class_name):
            return sampler
    known = ", ".join(sampler.name for sampler in offered)
    raise InvalidRequestError(
        f"Unknown scheduler {name!r}: expected one of {known}, a diffusers scheduler's class, or {CHECKPOINT_CHOICE}",
        "scheduler",
    )


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()
