"""Samplers for requests: diffusers' schedulers under A1111's names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from imagegen_core.errors import InvalidRequestError
from imagegen_core.schedules import AUTOMATIC, SCHEDULES, Schedule, find_schedule, plain_name, split_schedule

CHECKPOINT_CHOICE = "checkpoint"
"""Name for the checkpoint's own scheduler."""
_TRAINED_STEPS = 1000
_LONGEST_NAME = 128  # characters


@dataclass(frozen=True, slots=True)
class Sampler:
    """Description of a scheduler with its options; creating it does not import the scheduler.

    Attributes:
        name: The name in requests and recipes, such as ``DPM++ 2M Karras``.
        scheduler: ``module:Class`` of a diffusers scheduler. The class's name also selects the first sampler of that
            class.
        options: Options that override the checkpoint's scheduler configuration.
        automatic: The schedule of A1111's ``Automatic`` for this sampler; None is the checkpoint's own.
        eta: The share of fresh noise in a step; None lets a request choose it.
        most_steps: Maximum number of denoising steps, unless the checkpoint gives `distilled_steps`; or None.
        spare_steps: The limit of steps is this much less than the checkpoint's number of training steps.
        flow: ``module:Class`` of the scheduler for checkpoints of flow matching (https://arxiv.org/abs/2209.03003);
            None if the sampler does not draw them. `options` apply to it, too.
    """

    name: str
    scheduler: str
    options: Mapping[str, Any] = field(default_factory=dict)
    automatic: str | None = None
    eta: float | None = 0.0
    most_steps: int | None = None
    spare_steps: int = 0
    flow: str | None = None

    @property
    def class_name(self) -> str:
        """Name of the scheduler's class, such as ``EulerDiscreteScheduler``."""
        return self.scheduler.partition(":")[2]

    @property
    def flow_class_name(self) -> str:
        """Name of the class in `flow`; "" for None."""
        return (self.flow or "").partition(":")[2]


def is_flow(class_name: str, config: Mapping[str, Any]) -> bool:
    """Return whether a scheduler is of flow matching: its noise levels are shares of noise from 1 to 0."""
    return bool(config.get("use_flow_sigmas")) or class_name.startswith("FlowMatch")


@dataclass(frozen=True, slots=True)
class OwnScheduler:
    """Description of a checkpoint's own scheduler; creating it does not load the scheduler.

    Attributes:
        class_name: Name of the scheduler's class.
        trained_steps: Number of noise levels in the checkpoint's training.
        distilled_steps: Maximum number of denoising steps after distillation; None if not given.
        is_edm: Whether the noise levels are those of EDM: https://arxiv.org/abs/2206.00364.
        is_flow: Whether the checkpoint is of flow matching: https://arxiv.org/abs/2209.03003.
    """

    class_name: str
    trained_steps: int = _TRAINED_STEPS
    distilled_steps: int | None = None
    is_edm: bool = False
    is_flow: bool = False

    @classmethod
    def of(cls, class_name: str, config: Mapping[str, Any]) -> OwnScheduler:
        """Create the description from the contents of ``scheduler_config.json``; missing values get defaults."""
        trained, distilled = (config.get(name) for name in ("num_train_timesteps", "original_inference_steps"))
        return cls(
            class_name,
            trained if isinstance(trained, int) and trained > 0 else _TRAINED_STEPS,
            distilled if isinstance(distilled, int) and distilled > 0 else None,
            "sigma_data" in config,
            is_flow(class_name, config),
        )

    @property
    def default_sampler(self) -> str:
        """Name of the default sampler, if neither a request nor the configuration names a sampler."""
        return CHECKPOINT_CHOICE if self.is_edm or self.is_flow else "LCM"


# Classes and options for A1111's names: https://huggingface.co/docs/diffusers/api/schedulers/overview.
# Schedules of Automatic: modules/sd_samplers_kdiffusion.py of A1111 1.10.
_KARRAS: Mapping[str, Any] = {"use_karras_sigmas": True}
_SDE: Mapping[str, Any] = {"algorithm_type": "sde-dpmsolver++"}
# This scheduler would set lower_order_final by itself when necessary, but with a warning.
_SINGLE: Mapping[str, Any] = {"lower_order_final": True}
_FLOW_EULER, _MULTISTEP = "diffusers:FlowMatchEulerDiscreteScheduler", "diffusers:DPMSolverMultistepScheduler"
SAMPLERS = (
    Sampler("LCM", "diffusers:LCMScheduler", most_steps=50, flow="diffusers:FlowMatchLCMScheduler"),
    Sampler("Euler", "diffusers:EulerDiscreteScheduler", automatic="Uniform", flow=_FLOW_EULER),
    Sampler("Euler Karras", "diffusers:EulerDiscreteScheduler", _KARRAS, flow=_FLOW_EULER),
    Sampler("Euler a", "diffusers:EulerAncestralDiscreteScheduler", automatic="Uniform", eta=1.0),
    Sampler("DPM++ 2M", _MULTISTEP, automatic="Karras", spare_steps=2, flow=_MULTISTEP),
    Sampler("DPM++ 2M Karras", _MULTISTEP, _KARRAS),
    Sampler("DPM++ 2M SDE", _MULTISTEP, _SDE, "Exponential", eta=1.0, spare_steps=2, flow=_MULTISTEP),
    Sampler("DPM++ 2M SDE Karras", _MULTISTEP, {**_SDE, **_KARRAS}, eta=1.0),
    Sampler("DPM++ SDE", "diffusers:DPMSolverSinglestepScheduler", _SINGLE, "Karras", eta=1.0),
    Sampler("DPM++ SDE Karras", "diffusers:DPMSolverSinglestepScheduler", {**_SINGLE, **_KARRAS}, eta=1.0),
    Sampler("DPM2", "diffusers:KDPM2DiscreteScheduler", automatic="Karras"),
    Sampler("DPM2 Karras", "diffusers:KDPM2DiscreteScheduler", _KARRAS),
    Sampler("DPM2 a", "diffusers:KDPM2AncestralDiscreteScheduler", automatic="Karras", eta=1.0),
    Sampler("DPM2 a Karras", "diffusers:KDPM2AncestralDiscreteScheduler", _KARRAS, eta=1.0),
    Sampler(
        "Heun",
        "diffusers:HeunDiscreteScheduler",
        automatic="Uniform",
        flow="diffusers:FlowMatchHeunDiscreteScheduler",
    ),
    Sampler("DDIM", "diffusers:DDIMScheduler", eta=None, spare_steps=1),
    Sampler("DDPM", "diffusers:DDPMScheduler", eta=1.0, spare_steps=1),
    Sampler("PLMS", "diffusers:PNDMScheduler", {"skip_prk_steps": True}, spare_steps=1),
    Sampler("DEIS", "diffusers:DEISMultistepScheduler", spare_steps=2),
    Sampler("UniPC", "diffusers:UniPCMultistepScheduler", spare_steps=2, flow="diffusers:UniPCMultistepScheduler"),
    Sampler("TCD", "diffusers:TCDScheduler", eta=None, most_steps=50),
    Sampler("EDM Euler", "diffusers:EDMEulerScheduler"),
    Sampler("EDM DPM++ 2M", "diffusers:EDMDPMSolverMultistepScheduler"),
)


def find_sampler(name: str, offered: Iterable[Sampler]) -> Sampler:
    """Return the sampler with a given name; case, spaces, hyphens and underscores do not matter.

    Args:
        name: The name of a sampler or of a scheduler class.
        offered: The available samplers.

    Raises:
        InvalidRequestError: No sampler has this name.
    """
    offered = list(offered)
    wanted = plain_name(name) if len(name) <= _LONGEST_NAME else None
    for sampler in offered:
        if wanted == plain_name(sampler.name):
            return sampler
    for kind in ("class_name", "flow_class_name"):
        for sampler in offered:
            if wanted == plain_name(getattr(sampler, kind)):
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
    """Return a request's sampler and schedule, from two names or one such as ``Euler a SGM Uniform``.

    Args:
        sampler: The name of a sampler or of a scheduler class, or `CHECKPOINT_CHOICE`.
        schedule: The name of a schedule; None is the sampler's own.
        offered: The available samplers.
        own: The checkpoint's own scheduler.

    Returns:
        The sampler, and the schedule; None for the sampler's own schedule.

    Raises:
        InvalidRequestError: A name is unknown, or the two names contradict each other.
    """
    offered = list(offered)
    chosen, named = _find_named(sampler, offered, own)
    if named is not None and named.name == AUTOMATIC:
        named, schedule = None, schedule or AUTOMATIC
    if schedule is None:
        return chosen, named
    asked, own_schedule = find_schedule(schedule), _own_schedule(chosen)
    if asked.name == AUTOMATIC:
        if not chosen.automatic or own_schedule is not None or own.is_flow:
            return chosen, named
        return chosen, named or find_schedule(chosen.automatic)
    if asked == own_schedule:
        return chosen, None
    named = named or own_schedule
    if named is not None and asked != named:
        raise InvalidRequestError(
            f"Invalid schedule {schedule[:64]!r}: the scheduler {sampler[:64]!r} names the schedule {named.name} "
            "already; name the sampler alone",
            "schedule",
        )
    return chosen, asked


def step_limit(sampler: Sampler, own: OwnScheduler) -> int:
    """Return a sampler's maximum number of denoising steps for a checkpoint."""
    if sampler.most_steps is not None:
        return min(own.trained_steps, own.distilled_steps or sampler.most_steps)
    return own.trained_steps - sampler.spare_steps


def check_steps(sampler: Sampler, steps: int, own: OwnScheduler) -> None:
    """Refuse too many denoising steps for a sampler and a checkpoint; see `step_limit`.

    Raises:
        InvalidRequestError: `steps` is above the limit.
    """
    if steps > (limit := step_limit(sampler, own)):
        raise InvalidRequestError(
            f"Invalid num_inference_steps {steps}: the {sampler.name} scheduler takes 1 to {limit}",
            "num_inference_steps",
        )


def _find_named(name: str, offered: Sequence[Sampler], own: OwnScheduler) -> tuple[Sampler, Schedule | None]:
    if name.casefold() == CHECKPOINT_CHOICE:
        return _own_sampler(offered, own), None
    try:
        return find_sampler(name, offered), None
    except InvalidRequestError:
        split = split_schedule(name) if len(name) <= _LONGEST_NAME else None
        if split is None:
            raise
    return find_sampler(split[0], offered), split[1]


def _own_sampler(offered: Sequence[Sampler], own: OwnScheduler) -> Sampler:
    """Return the checkpoint's own scheduler as a sampler.

    EDM and flow matching have no other configuration than the checkpoint's, so the sampler of that class is the same.
    """
    same = next((known for known in offered if own.class_name in (known.class_name, known.flow_class_name)), None)
    if same is None:
        return Sampler(own.class_name, CHECKPOINT_CHOICE)
    name = same.name if own.is_edm or own.is_flow else own.class_name
    return replace(same, name=name, scheduler=CHECKPOINT_CHOICE, options={})


def _own_schedule(sampler: Sampler) -> Schedule | None:
    """Return the schedule in a sampler's options, such as Karras for ``DPM++ 2M Karras``."""
    meant = [
        schedule for schedule in SCHEDULES if schedule.options and schedule.options.items() <= sampler.options.items()
    ]
    return max(meant, key=lambda schedule: len(schedule.options), default=None)
