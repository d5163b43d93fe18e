"""Noise schedules for requests, under the names of A1111 and ComfyUI."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from imagegen_core.errors import InvalidRequestError

AUTOMATIC = "Automatic"
"""Name for A1111's default schedule of each sampler."""

_LONGEST_LIST = 10_000  # characters; twice the length of a thousand timesteps
_TIMESTEPS = re.compile(r"\s*[0-9]{1,6}\s*(,\s*[0-9]{1,6}\s*)*")


@dataclass(frozen=True, slots=True)
class Schedule:
    """The distribution of a sampler's noise levels over its steps.

    Attributes:
        name: The name in requests and recipes.
        options: The matching options of a diffusers scheduler; empty if diffusers has none.
        aliases: Other names; case, spaces, hyphens and underscores do not matter in any name.
        timesteps: The timesteps, if a request lists them.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    timesteps: tuple[int, ...] = ()


# Names: modules/sd_schedulers.py of A1111 1.10. Options: the table of noise schedules in
# https://huggingface.co/docs/diffusers/api/schedulers/overview.
SCHEDULES = (
    Schedule(AUTOMATIC),
    Schedule("Uniform", {"timestep_spacing": "linspace"}),
    Schedule("Karras", {"use_karras_sigmas": True}),
    Schedule("Exponential", {"use_exponential_sigmas": True, "timestep_spacing": "linspace"}),
    Schedule("SGM Uniform", {"timestep_spacing": "trailing"}, aliases=("trailing",)),
    Schedule("Simple"),
    Schedule("Normal"),
    Schedule("DDIM", {"timestep_spacing": "leading", "steps_offset": 1}, aliases=("DDIM Uniform",)),
    Schedule("Beta"),
    Schedule("Align Your Steps", aliases=("AYS",)),
)


def find_schedule(name: str) -> Schedule:
    """Return the schedule with a given name, or a new one for timesteps such as ``999, 749, 499, 249``.

    Raises:
        InvalidRequestError: No schedule has this name, or the timesteps do not decrease.
    """
    if len(name) <= _LONGEST_LIST:
        if _TIMESTEPS.fullmatch(name):
            return _listed(name)
        wanted = plain_name(name)
        for schedule in SCHEDULES:
            if wanted in map(plain_name, (schedule.name, *schedule.aliases)):
                return schedule
    known = ", ".join(schedule.name for schedule in SCHEDULES)
    raise InvalidRequestError(
        f"Unknown schedule {name[:64]!r}: expected one of {known}, or timesteps such as '999, 749, 499, 249'",
        "schedule",
    )


def split_schedule(name: str) -> tuple[str, Schedule] | None:
    """Split a schedule from a sampler's name: ``Euler a SGM Uniform`` becomes ``Euler a`` and SGM Uniform."""
    words = name.split()
    for number in range(1, len(words)):
        last = plain_name(" ".join(words[number:]))
        for schedule in SCHEDULES:
            if last == plain_name(schedule.name):
                return " ".join(words[:number]), schedule
    return None


def plain_name(name: str) -> str:
    """Normalize a name: remove spaces, hyphens and underscores, and fold its case."""
    return re.sub(r"[\s_-]", "", name).casefold()


def _listed(text: str) -> Schedule:
    timesteps = tuple(int(number) for number in text.split(","))
    if any(later >= earlier for earlier, later in pairwise(timesteps)):
        raise InvalidRequestError(
            f"Invalid schedule {text[:64]!r}: expected timesteps that fall, such as '999, 749, 499'", "schedule"
        )
    return Schedule(", ".join(map(str, timesteps)), timesteps=timesteps)
