"""Make a separate scheduler for each request, because schedulers keep state between steps."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import torch

from imagegen_core.diffusion.imposing import Scheduled, own_steps, scheduled, takes_timesteps
from imagegen_core.diffusion.noise_schedules import TABLES, align_your_steps
from imagegen_core.diffusion.prediction import config_for, flow_config, is_edm, options_of
from imagegen_core.errors import InvalidRequestError
from imagegen_core.request import StepOptions
from imagegen_core.samplers import CHECKPOINT_CHOICE, OwnScheduler, Sampler, check_steps, find_sampling
from imagegen_core.schedules import AUTOMATIC, SCHEDULES, Schedule

_FLOW_EULER = "FlowMatchEulerDiscreteScheduler"  # its step accepts Karras' options, and does not use them

# NVIDIA's levels: https://research.nvidia.com/labs/toronto-ai/AlignYourSteps/howto.html
ALIGNED_SIGMAS = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)


class Sampling(NamedTuple):
    """The full names of a picture's sampler and schedule, for its recipe."""

    sampler: str
    schedule: str | None


class Schedulers:
    """Makes schedulers for one checkpoint, each configured from the checkpoint's own.

    Attributes:
        own: The facts about the checkpoint's own scheduler.
        default: The sampler of requests without a sampler.
    """

    def __init__(
        self,
        own: Any,
        samplers: Iterable[Sampler],
        default: str | None,
        aligned_sigmas: Sequence[float] = ALIGNED_SIGMAS,
    ) -> None:
        """Prepare for a checkpoint.

        Args:
            own: The checkpoint's own scheduler.
            samplers: The samplers for requests.
            default: The sampler of requests without a sampler; None is LCM, or an EDM checkpoint's own.
            aligned_sigmas: The eleven noise levels of the schedule Align Your Steps for the checkpoint's family.

        Raises:
            InvalidRequestError: `default` is unknown, or does not draw this checkpoint.
        """
        self._own = own
        self.own = OwnScheduler.of(type(own).__name__, own.config)
        self._samplers = list(samplers)
        self._tables = {**TABLES, "Align Your Steps": align_your_steps(aligned_sigmas)}
        self._prototypes: dict[Sampling, Scheduled] = {}
        self.default = default or self.own.default_sampler
        self._prototype(*self._find(None, None))

    def names(self, sampler: str | None, schedule: str | None = None) -> Sampling:
        """Return the full names of a request's sampler and schedule, for its recipe.

        Raises:
            InvalidRequestError: A name is unknown.
        """
        chosen, chosen_schedule = self._find(sampler, schedule)
        return Sampling(chosen.name, chosen_schedule.name if chosen_schedule else None)

    def make(
        self,
        sampler: str | None,
        steps: int,
        device: torch.device,
        schedule: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        """Make a scheduler with its timesteps set.

        Args:
            sampler: The sampler's name; None takes the default.
            steps: The number of denoising steps.
            device: The device for its timesteps.
            schedule: The noise schedule's name; None takes the sampler's own.
            options: Further arguments of the scheduler's ``set_timesteps``, such as ``mu``.

        Raises:
            InvalidRequestError: A name is unknown, the sampler, schedule and checkpoint do not fit together, or they do
                not take this number of steps.
        """
        chosen, chosen_schedule = self._find(sampler, schedule)
        prototype = self._prototype(chosen, chosen_schedule)
        scheduler = copy.deepcopy(prototype.scheduler)
        check_steps(chosen, steps, self.own)
        if steps == 1 and is_edm(type(scheduler)) and scheduler.config.sigma_schedule == "exponential":
            raise InvalidRequestError(  # the only step would begin and end at the lowest noise level
                f"Invalid num_inference_steps 1: the {chosen.name} scheduler takes 2 or more here",
                "num_inference_steps",
            )
        try:
            prototype.set_steps(scheduler, steps, device, **(options or {}))
        except InvalidRequestError:
            raise
        except (ValueError, IndexError) as error:  # some need 2 or more, or a divisor of the trained steps
            raise InvalidRequestError(
                f"Invalid num_inference_steps {steps}: the {chosen.name} scheduler refuses it ({error}); "
                "try another number",
                "num_inference_steps",
            ) from error
        if not is_edm(type(scheduler)) and scheduler.timesteps.min() < 0:  # diffusers rounded to one step too many
            raise InvalidRequestError(
                f"Invalid num_inference_steps {steps}: the {chosen.name} scheduler cannot space so many; "
                "try another number",
                "num_inference_steps",
            )
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)  # saves a search for the first timestep on the device
        return scheduler

    def step_options(self, sampler: str | None, scheduler: Any, asked: StepOptions) -> dict[str, float]:
        """Return a request's options for each step, as the arguments of its scheduler's step.

        Args:
            sampler: The sampler's name, as in the call of `make`.
            scheduler: The scheduler from `make`.
            asked: The request's options; None leaves an option out.

        Raises:
            InvalidRequestError: The scheduler does not take an option.
        """
        accepted = _step_options(type(scheduler))
        chosen, _ = self._find(sampler, None)
        unasked = StepOptions(eta=chosen.eta or 0.0, s_churn=0.0, s_tmin=0.0, s_tmax=None, s_noise=1.0)
        for name, value in asked.given().items():
            if name not in accepted and value != getattr(unasked, name):
                takers = [fitting.name for fitting in self._fitting() if name in _step_options(self._class(fitting))]
                mend = f"leave it out, or name one of {', '.join(takers)}" if takers else "leave it out"
                raise InvalidRequestError(
                    f"Invalid {name} {value:g}: the {chosen.name} scheduler takes none; {mend}", name
                )
        return {name: value for name, value in asked.given().items() if name in accepted}

    def _find(self, sampler: str | None, schedule: str | None) -> tuple[Sampler, Schedule | None]:
        return find_sampling(sampler or self.default, schedule, self._samplers, self.own)

    def _prototype(self, sampler: Sampler, schedule: Schedule | None) -> Scheduled:
        key = Sampling(sampler.name, schedule.name if schedule else None)
        if key not in self._prototypes:
            if refusal := self._refusal(sampler):
                raise InvalidRequestError(
                    f"Invalid scheduler {sampler.name!r}: {refusal}; "
                    f"expected one of {', '.join(fitting.name for fitting in self._fitting())}",
                    "scheduler",
                )
            plain = self._plain(sampler)
            self._prototypes[key] = (
                Scheduled(plain, own_steps) if schedule is None else self._scheduled(sampler, plain, schedule)
            )
        return self._prototypes[key]

    def _class(self, sampler: Sampler) -> Any:
        if sampler.scheduler == CHECKPOINT_CHOICE:
            return type(self._own)
        reference = (sampler.flow if self.own.is_flow else None) or sampler.scheduler
        module_name, _, class_name = reference.partition(":")
        return getattr(import_module(module_name), class_name)

    def _plain(self, sampler: Sampler) -> Any:
        """Return a sampler's scheduler with its own noise schedule."""
        if sampler.scheduler == CHECKPOINT_CHOICE:
            return self._own
        kind = self._class(sampler)
        config = flow_config(kind, self._own.config) if self.own.is_flow else self._own.config
        return kind.from_config(config_for(kind, config), **sampler.options)

    def _refusal(self, sampler: Sampler) -> str | None:
        """Return the reason why a sampler cannot draw this checkpoint, in words; None if it can."""
        if self.own.is_flow:
            return self._refusal_of_flow(sampler)
        kind, own = self._class(sampler), self._own
        if is_edm(kind) and not is_edm(type(own)):
            return "it draws only EDM checkpoints, and this is not one"
        if is_edm(type(own)) and not is_edm(kind):
            return "this is an EDM checkpoint, whose noise levels it does not know"
        if own.config.get("rescale_betas_zero_snr") and "rescale_betas_zero_snr" not in options_of(kind):
            return f"this checkpoint begins at pure noise (zero terminal SNR), which diffusers' {kind.__name__} cannot"
        predicted = own.config.get("prediction_type", "epsilon")
        if predicted != "epsilon" and not _draws(self._plain(sampler)):
            return f"diffusers' {kind.__name__} does not draw a checkpoint that predicts {predicted}"
        return None

    def _refusal_of_flow(self, sampler: Sampler) -> str | None:
        if sampler.flow is None and sampler.scheduler != CHECKPOINT_CHOICE:
            return "this checkpoint is of flow matching, whose noise levels it does not know"
        takes_shift = "mu" in inspect.signature(self._class(sampler).set_timesteps).parameters
        if self._own.config.get("use_dynamic_shifting") and not takes_shift:
            return "this checkpoint's noise levels depend on the picture's size, and its own do not"
        return None

    def _scheduled(self, sampler: Sampler, plain: Any, schedule: Schedule) -> Scheduled:
        result = scheduled(plain, schedule, self._tables)
        if result is None:
            taken = [AUTOMATIC, *(other.name for other in SCHEDULES if scheduled(plain, other, self._tables))]
            listed = ", ".join(taken) + (", or timesteps" if takes_timesteps(plain) else "")
            raise InvalidRequestError(
                f"Invalid schedule {schedule.name!r}: the {sampler.name} scheduler takes {listed}", "schedule"
            )
        return result

    def _fitting(self) -> list[Sampler]:
        """Return the samplers that draw this checkpoint."""
        return [sampler for sampler in self._samplers if not self._refusal(sampler)]


def _step_options(scheduler_class: Any) -> set[str]:
    """Return the arguments of a scheduler's step that have an effect."""
    unused = {"s_churn", "s_tmin", "s_tmax", "s_noise"} if scheduler_class.__name__ == _FLOW_EULER else set()
    return set(inspect.signature(scheduler_class.step).parameters) - unused


def dynamic_shift(config: Mapping[str, Any], tokens: int) -> float:
    """Return the shift ``mu`` of a flow's noise levels for a picture's size: https://arxiv.org/abs/2403.03206, 5.3.2.

    Args:
        config: The scheduler's configuration, with the shifts at two numbers of tokens.
        tokens: The number of the picture's tokens.
    """
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    base, most = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    slope = (most - base) / (high - low)
    return float(tokens * slope + (base - slope * low))


def step_arguments(
    scheduler: Any, generator: torch.Generator, options: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Return the extra arguments of a scheduler's step, as the plain pipelines give them.

    Args:
        scheduler: The scheduler.
        generator: The source of fresh noise.
        options: The request's options, such as ``eta``; its default is 0.
    """
    known = {"generator": generator, "eta": 0.0, **(options or {})}
    accepted = _parameters(type(scheduler).step)
    return {name: value for name, value in known.items() if name in accepted}


@cache
def _parameters(function: Callable[..., Any]) -> Collection[str]:
    """Return the names of a function's parameters; `inspect` takes a tenth of a millisecond for each call."""
    return frozenset(inspect.signature(function).parameters)


def _draws(scheduler: Any) -> bool:
    """Return whether a scheduler can step with the network's prediction type; some schedulers refuse only at a step."""
    trial = copy.deepcopy(scheduler)
    trial.set_timesteps(2)
    latents = torch.zeros(1, 1, 1, 1)
    try:
        sample = trial.scale_model_input(latents, trial.timesteps[0])
        trial.step(sample, trial.timesteps[0], latents, **step_arguments(trial, torch.Generator()))
    except (ValueError, NotImplementedError):
        return False
    return True
