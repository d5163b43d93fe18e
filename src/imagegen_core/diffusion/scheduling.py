"""Which scheduler a request is denoised with: one of its own, since schedulers keep state between steps."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable
from importlib import import_module
from typing import Any

import torch

from imagegen_core.errors import InvalidRequestError
from imagegen_core.samplers import CHECKPOINT_CHOICE, Sampler, find_sampler


class Schedulers:
    """Makes schedulers for one checkpoint, each configured from the checkpoint's own."""

    def __init__(self, own: Any, samplers: Iterable[Sampler], default: str) -> None:
        """Prepare for a checkpoint.

        Args:
            own: The scheduler that the checkpoint came with.
            samplers: What requests may name.
            default: The name that stands where a request names none.

        Raises:
            InvalidRequestError: `default` is unknown.
        """
        self._own = own
        self._samplers = list(samplers)
        self._prototypes: dict[str, Any] = {}
        self.default = default
        self._prototype(default)

    def name(self, wanted: str | None) -> str:
        """The sampler's full name, as a picture's recipe has it.

        Raises:
            InvalidRequestError: `wanted` is unknown.
        """
        wanted = wanted or self.default
        return type(self._own).__name__ if _is_own(wanted) else find_sampler(wanted, self._samplers).name

    def make(self, wanted: str | None, steps: int, device: torch.device) -> Any:
        """A scheduler with its timesteps set.

        Args:
            wanted: The sampler's name; None takes the default.
            steps: How many denoising steps.
            device: Where its timesteps are wanted.

        Raises:
            InvalidRequestError: `wanted` is unknown, or does not take so many steps.
        """
        scheduler = copy.deepcopy(self._prototype(wanted or self.default))
        config = scheduler.config
        limit = getattr(config, "original_inference_steps", None) or config.num_train_timesteps
        if steps > limit:
            name = self.name(wanted)
            raise InvalidRequestError(
                f"Invalid num_inference_steps {steps}: the {name} scheduler takes 1 to {limit}", "num_inference_steps"
            )
        try:
            scheduler.set_timesteps(steps, device=device)
        except (ValueError, IndexError) as error:  # some need more than one, or a divisor of the trained ones
            name = self.name(wanted)
            raise InvalidRequestError(
                f"Invalid num_inference_steps {steps}: the {name} scheduler refuses it ({error}); try another number",
                "num_inference_steps",
            ) from error
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)  # spares a search for the first timestep on the device
        return scheduler

    def _prototype(self, wanted: str) -> Any:
        if _is_own(wanted):
            return self._own
        sampler = find_sampler(wanted, self._samplers)
        if sampler.name not in self._prototypes:
            module_name, _, class_name = sampler.scheduler.partition(":")
            scheduler_class = getattr(import_module(module_name), class_name)
            self._prototypes[sampler.name] = scheduler_class.from_config(self._own.config, **sampler.options)
        return self._prototypes[sampler.name]


def step_arguments(scheduler: Any, generator: torch.Generator) -> dict[str, Any]:
    """What a scheduler's step takes beside the sample, as the plain pipelines give it: noise's source, and eta of 0."""
    known = {"generator": generator, "eta": 0.0}
    accepted = inspect.signature(scheduler.step).parameters
    return {name: value for name, value in known.items() if name in accepted}


def _is_own(wanted: str) -> bool:
    return wanted.casefold() == CHECKPOINT_CHOICE
