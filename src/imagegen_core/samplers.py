"""The samplers a request can name: diffusers' schedulers under the names that A1111's users know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from imagegen_core.errors import InvalidRequestError
from imagegen_core.schedules import AUTOMATIC, SCHEDULES, Schedule, find_schedule, plain_name, split_schedule

CHECKPOINT_CHOICE = "checkpoint"
"""Stands for the scheduler that the checkpoint itself came with."""
_TRAINED_STEPS = 1000
_LONGEST_NAME = 128  # characters


@dataclass(frozen=True, slots=True)
class Sampler:
    """A scheduler with its options, described without importing it.

    Attributes:
        name: What requests and pictures' recipes call it, such as ``DPM++ 2M Karras``.
        scheduler: ``module:Class`` of a diffusers scheduler. The first sampler of a class also answers to the
            class's name.
        options: What its configuration overrides in the checkpoint's.
        automatic: The schedule that A1111's ``Automatic`` gives it; None is the checkpoint's own.
        eta: The share of fresh noise in a step; None lets a request choose it.
        most_steps: The most denoising steps, where a distilled model takes fewer than it was trained with.
        spare_steps: How many steps fewer than the checkpoint was trained with it takes at most.
    """

    name: str
    scheduler: str
    options: Mapping[str, Any] = field(default_factory=dict)
    automatic: str | None = None
    eta: float | None = 0.0
    most_steps: int | None = None
    spare_steps: int = 0

    @property
    def class_name(self) -> str:
        """The scheduler's class, such as ``EulerDiscreteScheduler``."""
        return self.scheduler.partition(":")[2]


@dataclass(frozen=True, slots=True)
class OwnScheduler:
    """What there is to know of a checkpoint's own scheduler without loading it.

    Attributes:
        class_name: Its class.
        trained_steps: The noise levels that the checkpoint was trained with.
        distilled_steps: The most denoising steps that it was distilled for, where it says that.
        is_edm: Whether its noise levels are those of EDM: https://arxiv.org/abs/2206.00364.
    """

    class_name: str
    trained_steps: int = _TRAINED_STEPS
    distilled_steps: int | None = None
    is_edm: bool = False

    @classmethod
    def of(cls, class_name: str, config: Mapping[str, Any]) -> OwnScheduler:
        """Read its configuration, as ``scheduler_config.json`` has it; what that lacks is as for all of its kind."""
        trained, distilled = (config.get(name) for name in ("num_train_timesteps", "original_inference_steps"))
        return cls(
            class_name,
            trained if isinstance(trained, int) and trained > 0 else _TRAINED_STEPS,
            distilled if isinstance(distilled, int) and distilled > 0 else None,
            "sigma_data" in config,
        )

    @property
    def default_sampler(self) -> str:
        """The sampler where neither a request nor the configuration names one."""
        return CHECKPOINT_CHOICE if self.is_edm else "LCM"


# Which class and options are which of A1111's names: https://huggingface.co/docs/diffusers/api/schedulers/overview.
# What Automatic gives them: modules/sd_samplers_kdiffusion.py of A1111 1.10.
_KARRAS: Mapping[str, Any] = {"use_karras_sigmas": True}
_SDE: Mapping[str, Any] = {"algorithm_type": "sde-dpmsolver++"}
# lower_order_final is what this one switches to by itself, with a warning, wherever it matters.
_SINGLE: Mapping[str, Any] = {"lower_order_final": True}
SAMPLERS = (
    Sampler("LCM", "diffusers:LCMScheduler", most_steps=50),
    Sampler("Euler", "diffusers:EulerDiscreteScheduler", automatic="Uniform"),
    Sampler("Euler Karras", "diffusers:EulerDiscreteScheduler", _KARRAS),
    Sampler("Euler a", "diffusers:EulerAncestralDiscreteScheduler", automatic="Uniform", eta=1.0),
    Sampler("DPM++ 2M", "diffusers:DPMSolverMultistepScheduler", automatic="Karras", spare_steps=2),
    Sampler("DPM++ 2M Karras", "diffusers:DPMSolverMultistepScheduler", _KARRAS),
    Sampler("DPM++ 2M SDE", "diffusers:DPMSolverMultistepScheduler", _SDE, "Exponential", eta=1.0, spare_steps=2),
    Sampler("DPM++ 2M SDE Karras", "diffusers:DPMSolverMultistepScheduler", {**_SDE, **_KARRAS}, eta=1.0),
    Sampler("DPM++ SDE", "diffusers:DPMSolverSinglestepScheduler", _SINGLE, "Karras", eta=1.0),
    Sampler("DPM++ SDE Karras", "diffusers:DPMSolverSinglestepScheduler", {**_SINGLE, **_KARRAS}, eta=1.0),
    Sampler("DPM2", "diffusers:KDPM2DiscreteScheduler", automatic="Karras"),
    Sampler("DPM2 Karras", "diffusers:KDPM2DiscreteScheduler", _KARRAS),
    Sampler("DPM2 a", "diffusers:KDPM2AncestralDiscreteScheduler", automatic="Karras", eta=1.0),
    Sampler("DPM2 a Karras", "diffusers:KDPM2AncestralDiscreteScheduler", _KARRAS, eta=1.0),
    Sampler("Heun", "diffusers:HeunDiscreteScheduler", automatic="Uniform"),
    Sampler("DDIM", "diffusers:DDIMScheduler", eta=None, spare_steps=1),
    Sampler("DDPM", "diffusers:DDPMScheduler", eta=1.0, spare_steps=1),
    Sampler("PLMS", "diffusers:PNDMScheduler", {"skip_prk_steps": True}, spare_steps=1),
    Sampler("DEIS", "diffusers:DEISMultistepScheduler", spare_steps=2),
    Sampler("UniPC", "diffusers:UniPCMultistepScheduler", spare_steps=2),
    Sampler("TCD", "diffusers:TCDScheduler", eta=None, most_steps=50),
    Sampler("EDM Euler", "diffusers:EDMEulerScheduler"),
    Sampler("EDM DPM++ 2M", "diffusers:EDMDPMSolverMultistepScheduler"),
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
    wanted = plain_name(name) if len(name) <= _LONGEST_NAME else None
    for sampler in offered:
        if wanted == plain_name(sampler.name):
            return sampler
    for sampler in offered:
        if wanted == plain_name(sampler.class_name):
            return sampler
    known = ", ".join(sampler.name for sampler in offered)
    raise InvalidRequestError(
        f"Unknown scheduler {name[:64]!r}: expected one of {known}, a diffusers scheduler's class, "
        f"or {CHECKPOINT_CHOICE}",
        "scheduler",
    )


def find_sampling(
    sampler: str, schedule: str | None, offered: Iterable[Sampler], own: OwnScheduler
) -> tuple[Sampler, Schedule | None]:
    """The sampler and the noise schedule that a request names, apart or in one name such as ``Euler a SGM Uniform``.

    Args:
        sampler: A sampler's name, a scheduler class's, or `CHECKPOINT_CHOICE`.
        schedule: A schedule's name; None is the sampler's own.
        offered: The samplers to look through.
        own: The checkpoint's own scheduler.

    Returns:
        The sampler, and the schedule where it is not the sampler's own.

    Raises:
        InvalidRequestError: A name is unknown, or the two contradict each other.
    """
    offered = list(offered)
    found, named = _find_named(sampler, offered, own.class_name)
    if named is not None and named.name == AUTOMATIC:
        named, schedule = None, schedule or AUTOMATIC
    if schedule is None:
        return found, named
    asked, own_schedule = find_schedule(schedule), _own_schedule(found)
    if asked.name == AUTOMATIC:
        automatic = find_schedule(found.automatic) if found.automatic and own_schedule is None else None
        return found, named or automatic
    if asked == own_schedule:
        return found, None
    named = named or own_schedule
    if named is not None and asked != named:
        raise InvalidRequestError(
            f"Invalid schedule {schedule[:64]!r}: the scheduler {sampler[:64]!r} names the schedule {named.name} "
            "already; name the sampler alone",
            "schedule",
        )
    return found, asked


def step_limit(sampler: Sampler, own: OwnScheduler) -> int:
    """The most denoising steps that a sampler takes of a checkpoint."""
    if sampler.most_steps is not None:
        return min(own.trained_steps, own.distilled_steps or sampler.most_steps)
    return own.trained_steps - sampler.spare_steps


def check_steps(sampler: Sampler, steps: int, own: OwnScheduler) -> None:
    """Refuse more denoising steps than a sampler takes of a checkpoint; see `step_limit`.

    Raises:
        InvalidRequestError: It takes fewer.
    """
    if steps > (limit := step_limit(sampler, own)):
        raise InvalidRequestError(
            f"Invalid num_inference_steps {steps}: the {sampler.name} scheduler takes 1 to {limit}",
            "num_inference_steps",
        )


def _find_named(name: str, offered: Sequence[Sampler], own_class: str) -> tuple[Sampler, Schedule | None]:
    if name.casefold() == CHECKPOINT_CHOICE:
        same = next((sampler for sampler in offered if sampler.class_name == own_class), None)
        own = Sampler(own_class, CHECKPOINT_CHOICE)
        return (own if same is None else replace(same, name=own_class, scheduler=CHECKPOINT_CHOICE, options={})), None
    try:
        return find_sampler(name, offered), None
    except InvalidRequestError:
        split = split_schedule(name) if len(name) <= _LONGEST_NAME else None
        if split is None:
            raise
    return find_sampler(split[0], offered), split[1]


def _own_schedule(sampler: Sampler) -> Schedule | None:
    """The schedule that a sampler's options mean, such as that of ``DPM++ 2M Karras``."""
    meant = [one for one in SCHEDULES if one.options and one.options.items() <= sampler.options.items()]
    return max(meant, key=lambda one: len(one.options), default=None)
