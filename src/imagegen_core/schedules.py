"""The noise schedules a request can name beside its sampler, under the names that A1111 and ComfyUI give them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from imagegen_core.errors import InvalidRequestError

AUTOMATIC = "Automatic"
"""Stands for the schedule that A1111 gives a sampler by itself."""

_LONGEST_LIST = 10_000  # characters; a thousand timesteps take half of it
_TIMESTEPS = re.compile(r"\s*[0-9]{1,6}\s*(,\s*[0-9]{1,6}\s*)*")


@dataclass(frozen=True, slots=True)
class Schedule:
    """How a sampler's noise levels are spread over its steps.

    Attributes:
        name: What requests and pictures' recipes call it.
        options: The options of a diffusers scheduler that mean it; empty where diffusers has none.
        aliases: Other names; case, spaces, hyphens and underscores do not matter in any of them.
        timesteps: The timesteps themselves, where a request lists them.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    timesteps: tuple[int, ...] = ()


# The names: modules/sd_schedulers.py of A1111 1.10. The options: the table of noise schedules in
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
    """The schedule that `name` means, or one of its own for timesteps such as ``999, 749, 499, 249``.

    Raises:
        InvalidRequestError: There is none of that name, or the timesteps do not fall.
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
    """A sampler's name and the schedule at its end: ``Euler a`` and SGM Uniform of ``Euler a SGM Uniform``."""
    words = name.split()
    for number in range(1, len(words)):
        last = plain_name(" ".join(words[number:]))
        for schedule in SCHEDULES:
            if last == plain_name(schedule.name):
                return " ".join(words[:number]), schedule
    return None


def plain_name(name: str) -> str:
    """A name without what does not matter in it: case, spaces, hyphens and underscores."""
    return re.sub(r"[\s_-]", "", name).casefold()


def _listed(text: str) -> Schedule:
    timesteps = tuple(int(number) for number in text.split(","))
    if any(later >= earlier for earlier, later in pairwise(timesteps)):
        raise InvalidRequestError(
            f"Invalid schedule {text[:64]!r}: expected timesteps that fall, such as '999, 749, 499'", "schedule"
        )
    return Schedule(", ".join(map(str, timesteps)), timesteps=timesteps)
