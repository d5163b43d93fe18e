"""instruct-pix2pix checkpoints equal the plain pipelines."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from imagegen_core import InvalidRequestError, OutpaintOptions
from tests.pictures_in.conftest import SAMPLERS, Pair, difference, mask, picture

CASES: dict[str, dict[str, Any]] = {
    "both scales": {"guidance_scale": 5.0, "image_guidance_scale": 1.7},
    "a negative prompt": {"guidance_scale": 5.0, "image_guidance_scale": 2.5, "negative_prompt": "blurry"},
    "without guidance": {"guidance_scale": 1.0, "image_guidance_scale": 1.5},
}


@pytest.mark.parametrize("fields", CASES.values(), ids=CASES)
def test_pictures_equal_the_plain_pipelines(editor: Pair, fields: dict[str, Any]) -> None:
    shape = {"width": 64, "height": 48} if editor.family == "sdxl" else {}
    expected = editor.expected("InstructPix2Pix", "Euler", image=picture(), num_inference_steps=5, **shape, **fields)
    drawn = editor.draw(image=picture(), scheduler="Euler", num_inference_steps=5, **fields)
    assert difference(drawn, expected) <= 1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_does(editor: Pair, sampler: str) -> None:
    fields: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 4.0, "image_guidance_scale": 1.2}
    shape = {"width": 64, "height": 48} if editor.family == "sdxl" else {}
    expected = editor.expected("InstructPix2Pix", sampler, image=picture(), **shape, **fields)
    assert difference(editor.draw(image=picture(), scheduler=sampler, **fields), expected) <= 1


@pytest.mark.parametrize("sampler", ["Euler", "DPM++ 2M", "DDIM"])
def test_a_strength_begins_with_the_noisy_picture_as_a1111_does(editor: Pair, sampler: str) -> None:
    fields: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 4.0, "image_guidance_scale": 1.2}
    pipe, schedulers, skipped = editor.plain("InstructPix2Pix"), editor.worker._schedulers, 2
    scheduler = copy.deepcopy(schedulers._prototype(*schedulers._find(sampler, None)).scheduler)
    generator = torch.Generator("cpu").manual_seed(7)
    pixels = pipe.image_processor.preprocess(picture())
    latents = pipe.vae.encode(pixels).latent_dist.sample(generator) * pipe.vae.config.scaling_factor
    noise = torch.randn(latents.shape, generator=generator)
    scheduler.set_timesteps(fields["num_inference_steps"])
    noisy = scheduler.add_noise(latents, noise, scheduler.timesteps[skipped : skipped + 1])
    pipe.scheduler = _Shortened(scheduler, skipped)
    shape = {"width": 64, "height": 48} if editor.family == "sdxl" else {}
    begun = {"latents": noisy / scheduler.init_noise_sigma, "generator": generator}
    expected = np.asarray(pipe("a lake at dawn", image=picture(), **begun, **shape, **fields).images[0])
    assert difference(editor.draw(image=picture(), scheduler=sampler, strength=0.5, **fields), expected) <= 1


class _Shortened:
    """A scheduler that shows a pipeline only the timesteps after the first ones, as pipelines with a strength do."""

    def __init__(self, scheduler: Any, skipped: int) -> None:
        self._scheduler, self._skipped = scheduler, skipped

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheduler, name)

    @property
    def timesteps(self) -> torch.Tensor:
        shown: torch.Tensor = self._scheduler.timesteps[self._skipped :]
        return shown

    def set_timesteps(self, *arguments: Any, **options: Any) -> None:
        self._scheduler.set_timesteps(*arguments, **options)
        if hasattr(self._scheduler, "set_begin_index"):
            self._scheduler.set_begin_index(self._skipped)


def test_the_default_image_guidance_is_diffusers(editor: Pair) -> None:
    fields: dict[str, Any] = {"image": picture(), "guidance_scale": 4.0}
    assert (editor.draw(**fields) == editor.draw(image_guidance_scale=1.5, **fields)).all()


def test_it_also_draws_without_a_picture(editor: Pair) -> None:
    assert editor.draw(size="64x48", guidance_scale=4.0).shape == (48, 64, 3)


def test_a_strength_of_1_means_all_steps(editor: Pair) -> None:
    fields: dict[str, Any] = {"image": picture(), "guidance_scale": 4.0}
    assert (editor.draw(strength=1.0, **fields) == editor.draw(**fields)).all()


@pytest.mark.parametrize("fields", [{"mask": mask()}, {"outpaint": OutpaintOptions(left=8)}, {"resize": "latent"}])
def test_fields_without_a_meaning_are_refused(editor: Pair, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match="whole image") as caught:
        editor.draw(image=picture(), **fields)
    assert caught.value.field == next(iter(fields))
