"""Give a diffusers scheduler a noise schedule: by its options, or by a list of timesteps or noise levels."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from imagegen_core.diffusion.noise_schedules import ON_TIMESTEPS, Sigmas, Table, timesteps_at
from imagegen_core.diffusion.prediction import config_for, is_edm, options_of
from imagegen_core.errors import InvalidRequestError
from imagegen_core.samplers import is_flow
from imagegen_core.schedules import Schedule

SetSteps = Callable[..., None]
"""Sets the steps of a scheduler, given the scheduler, the number of steps, the device and further arguments."""

_HOOK = "use_exponential_sigmas"  # with this option, a scheduler calls its own method for its noise levels
_FLAGS = ("use_karras_sigmas", _HOOK, "use_beta_sigmas", "use_lu_lambdas")
_EDM = {"Karras": {"sigma_schedule": "karras"}, "Exponential": {"sigma_schedule": "exponential"}}
_EVEN = frozenset({"Uniform", "Normal"})  # near enough to whole timesteps for schedulers that take no others
_EVEN_FLOWS = frozenset({"Simple", "SGM Uniform"})  # of flows, before the shift
_SMALLEST_ALPHA = 2**-24  # stands for zero terminal SNR, as in diffusers


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A scheduler to copy for each request, and a function to set the steps of a copy."""

    scheduler: Any
    set_steps: SetSteps


def own_steps(scheduler: Any, steps: int, device: torch.device, **options: Any) -> None:
    """Set a scheduler's steps by its own options.

    Args:
        scheduler: The scheduler.
        steps: The number of steps.
        device: The device for the timesteps.
        options: Further arguments of ``set_timesteps``. A scheduler with its own spacing ignores ``sigmas``, as in
            diffusers' pipelines.
    """
    accepted = inspect.signature(scheduler.set_timesteps).parameters
    given = {name: value for name, value in options.items() if name in accepted}
    if scheduler.config.get("use_flow_sigmas"):
        given.pop("sigmas", None)
    scheduler.set_timesteps(steps, device=device, **given)


def scheduled(plain: Any, schedule: Schedule, tables: Mapping[str, Table]) -> Scheduled | None:
    """Return a scheduler with a noise schedule; None if the scheduler does not take it.

    Args:
        plain: The scheduler with its own schedule.
        schedule: The schedule.
        tables: The noise levels of the schedules, by their names.
    """
    options, way = _options(plain, schedule), _way(plain, schedule, tables.get(schedule.name))
    if options is None and way is None:
        return None
    if way is None or (options is not None and schedule.name != "DDIM"):  # leading spacing is DDIM's only for some
        return Scheduled(_configured(plain, options or {}), own_steps)
    return Scheduled(
        _configured(plain, {_HOOK: True} if way.func is _set_levels and _HOOK in options_of(type(plain)) else {}), way
    )


def takes_timesteps(scheduler: Any) -> bool:
    """Return whether a scheduler accepts a list of timesteps; those of flow matching are not whole numbers."""
    is_of_flow = is_flow(type(scheduler).__name__, scheduler.config)
    return not is_of_flow and "timesteps" in inspect.signature(scheduler.set_timesteps).parameters


def _options(plain: Any, schedule: Schedule) -> Mapping[str, Any] | None:
    """Return the options of a scheduler for a schedule; None if it has none."""
    if plain.config.get("use_flow_sigmas"):  # its other options are for the noise levels of diffusion
        return None
    if is_edm(type(plain)):
        return _EDM.get(schedule.name)
    known = options_of(type(plain))
    flags = [name for name in schedule.options if name in _FLAGS]
    has_spacing = "timestep_spacing" in known and "original_inference_steps" not in known
    if not schedule.options or not (all(name in known for name in flags) if flags else has_spacing):
        return None
    return {name: value for name, value in schedule.options.items() if name in known}


def _way(plain: Any, schedule: Schedule, table: Table | None) -> partial[None] | None:
    """Return a function that sets a schedule without an option for it; None if the scheduler has no way."""
    takes_sigmas = "sigmas" in inspect.signature(plain.set_timesteps).parameters
    if is_flow(type(plain).__name__, plain.config):
        is_even = schedule.name in _EVEN_FLOWS and takes_sigmas and not plain.config.get("use_flow_sigmas")
        return partial(_set_even_flow) if is_even else None
    if schedule.timesteps:
        return partial(_set_listed, schedule.timesteps) if takes_timesteps(plain) else None
    if table is None or not hasattr(plain, "alphas_cumprod"):
        return None
    sigmas = getattr(plain, "sigmas", None)
    takes_levels = _HOOK in options_of(type(plain)) or (sigmas is not None and len(sigmas) == len(plain.timesteps) + 1)
    is_whole = schedule.name in ON_TIMESTEPS and not takes_sigmas
    if takes_timesteps(plain) and (is_whole or (not takes_levels and schedule.name in ON_TIMESTEPS | _EVEN)):
        return partial(_set_rounded, table)
    return partial(_set_levels, table) if takes_levels else None


def _configured(plain: Any, options: Mapping[str, Any]) -> Any:
    kind = type(plain)
    cleared = {name: False for name in _FLAGS if name in options_of(kind)}
    return kind.from_config(config_for(kind, plain.config), **{**cleared, **options})


def _set_even_flow(scheduler: Any, steps: int, device: torch.device, **options: Any) -> None:
    """Set noise levels at equal distances from 1 down, before the shift."""
    own_steps(scheduler, steps, device, **{**options, "sigmas": np.linspace(1.0, 1 / steps, steps)})


def _set_listed(timesteps: tuple[int, ...], scheduler: Any, steps: int, device: torch.device) -> None:
    trained = scheduler.config.num_train_timesteps
    if timesteps[0] >= trained:
        raise InvalidRequestError(
            f"Invalid schedule {timesteps[0]}: the checkpoint has the timesteps 0 to {trained - 1}", "schedule"
        )
    if len(timesteps) != steps:
        raise InvalidRequestError(
            f"Invalid num_inference_steps {steps}: the schedule lists {len(timesteps)} timesteps", "num_inference_steps"
        )
    _set_timesteps(scheduler, list(timesteps), device)


def _set_rounded(table: Table, scheduler: Any, steps: int, device: torch.device) -> None:
    """Set the whole timesteps nearest to a table's noise levels."""
    trained = _trained_sigmas(scheduler)
    timesteps = timesteps_at(trained, table(trained, steps)).round().astype(int).tolist()
    if len(set(timesteps)) < len(timesteps):
        raise ValueError(f"the schedule has {len(set(timesteps))} different timesteps there")
    _set_timesteps(scheduler, timesteps, device)


def _set_timesteps(scheduler: Any, timesteps: list[int], device: torch.device) -> None:
    """Set timesteps, without the log's note that LCM and TCD were distilled at others."""
    logger = logging.getLogger(type(scheduler).__module__)
    logger.addFilter(_no_timesteps)
    try:
        scheduler.set_timesteps(timesteps=timesteps, device=device)
    finally:
        logger.removeFilter(_no_timesteps)


def _no_timesteps(record: logging.LogRecord) -> bool:
    return "custom timestep" not in record.getMessage()


def _set_levels(table: Table, scheduler: Any, steps: int, device: torch.device) -> None:
    """Set a table's noise levels; a scheduler with the hook computes the rest as for its own exponential levels."""
    trained = _trained_sigmas(scheduler)
    levels = table(trained, steps)
    if _HOOK in options_of(type(scheduler)):
        scheduler._convert_to_exponential = lambda **_: levels  # noqa: SLF001 - diffusers has no public way
        scheduler.set_timesteps(len(levels), device=device)
        del scheduler._convert_to_exponential  # noqa: SLF001 - the same
        return
    scheduler.set_timesteps(len(levels), device=device)
    timesteps = torch.as_tensor(timesteps_at(trained, levels), device=device)
    scheduler.timesteps = timesteps.to(scheduler.timesteps.dtype)
    scheduler.sigmas = torch.tensor([*levels, 0.0], dtype=torch.float32)


def _trained_sigmas(scheduler: Any) -> Sigmas:
    """Return the noise levels of a scheduler's training, rising."""
    alphas = scheduler.alphas_cumprod.double().clamp(min=_SMALLEST_ALPHA).numpy()
    return np.sqrt((1 - alphas) / alphas)  # type: ignore[no-any-return]
