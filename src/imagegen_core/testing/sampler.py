"""The contract of every sampler."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from imagegen_core.errors import InvalidRequestError
from imagegen_core.plugins.registry import Registry
from imagegen_core.samplers import Sampler, find_sampler
from imagegen_core.testing.doctor import check_plugin
from imagegen_core.testing.quick import QUICK

_SHAPE = (1, 4, 8, 8)
_TRAINED = {  # https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0, scheduler/scheduler_config.json
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
}


class SamplerConformance:
    """The contract of a `Sampler`'s scheduler, to inherit from: set `sampler` to its name.

    Attributes:
        sampler: The sampler's name.
    """

    sampler: ClassVar[str]

    @pytest.fixture(scope="class")
    @classmethod
    def description(cls) -> Sampler:
        """Return the sampler's description by its plugin."""
        return find_sampler(cls.sampler, Registry.discover().samplers.values())

    @pytest.fixture(scope="class")
    @classmethod
    def schedulers(cls, description: Sampler) -> Any:
        """Make the factory of the sampler's schedulers for a checkpoint, like the diffusers backends."""
        scheduling = pytest.importorskip("imagegen_core.diffusion.scheduling", exc_type=ImportError)
        diffusers = pytest.importorskip("diffusers", exc_type=ImportError)
        own = diffusers.EulerDiscreteScheduler.from_config(_TRAINED)
        return scheduling.Schedulers(own, [description], description.name)

    @QUICK
    def test_plugin_works(self, description: Sampler) -> None:
        """Every command imports every plugin: a plugin that imports torch, prints or is broken harms all of them."""
        check_plugin("sampler", description.name)

    @QUICK
    def test_it_is_found_by_name(self, description: Sampler) -> None:
        """Case, spaces and hyphens do not matter in names, so names that differ only in them are equal."""
        others = [sampler for sampler in Registry.discover().samplers.values() if sampler.name != description.name]
        with pytest.raises(InvalidRequestError):
            find_sampler(
                description.name, [sampler for sampler in others if sampler.class_name != description.class_name]
            )

    @pytest.mark.parametrize("steps", [1, 2, 4, 20, 50])
    def test_it_accepts_these_numbers_of_steps(self, schedulers: Any, steps: int) -> None:
        """From the 1 step of a distilled model to 50: finite latents of the same shape, or a refusal in a sentence."""
        try:
            latents = _sampled(schedulers, steps, seed=1)
        except InvalidRequestError as error:
            pytest.skip(f"it refuses {steps}: {error}")
        assert latents.shape == _SHAPE
        assert bool(latents.isfinite().all()), "the latents are not all finite numbers"

    @QUICK
    def test_equal_seeds_give_equal_latents(self, schedulers: Any) -> None:
        """Noise comes only from the generator passed to the step."""
        first, again, other = (_sampled(schedulers, 4, seed) for seed in (1, 1, 2))
        assert first.equal(again), "the same seed gave other latents"
        assert not first.equal(other), "another seed gave the same latents"

    def test_two_pictures_do_not_share_a_scheduler(self, schedulers: Any) -> None:
        """Each request has its own scheduler, and other requests run between its steps."""
        alone = [_sampled(schedulers, steps, seed) for steps, seed in ((4, 1), (6, 2))]
        under_way = [_Sampling(schedulers, steps, seed) for steps, seed in ((4, 1), (6, 2))]
        while any(sampling.left for sampling in under_way):
            for sampling in under_way:
                sampling.step()
        assert all(sampling.latents.equal(before) for sampling, before in zip(under_way, alone, strict=True))


class _Sampling:
    """One picture in progress, with a stand-in for the network."""

    def __init__(self, schedulers: Any, steps: int, seed: int) -> None:
        torch = pytest.importorskip("torch")
        self._arguments = pytest.importorskip("imagegen_core.diffusion.scheduling").step_arguments
        self._scheduler = schedulers.make(None, steps, torch.device("cpu"))
        self._generator = torch.Generator("cpu").manual_seed(seed)
        self.latents = torch.randn(_SHAPE, generator=self._generator) * self._scheduler.init_noise_sigma
        self.left = list(self._scheduler.timesteps)

    def step(self) -> None:
        """Run one step, unless all are done."""
        if not self.left:
            return
        timestep = self.left.pop(0)
        scaled = self._scheduler.scale_model_input(self.latents, timestep)
        arguments = self._arguments(self._scheduler, self._generator)
        self.latents = self._scheduler.step(scaled.tanh(), timestep, self.latents, **arguments).prev_sample


def _sampled(schedulers: Any, steps: int, seed: int) -> Any:
    sampling = _Sampling(schedulers, steps, seed)
    while sampling.left:
        sampling.step()
    return sampling.latents
