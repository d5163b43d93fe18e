"""img2img equals the plain pipelines: the same draws, steps and pixels."""

from __future__ import annotations

from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from tests.pictures_in.conftest import Pair, difference, picture

MORE_SAMPLERS = ["Euler Karras", "DPM++ 2M Karras", "DPM2", "DPM2 a", "DDPM", "DEIS", "TCD"]


@pytest.mark.parametrize("sampler", MORE_SAMPLERS)
def test_the_other_samplers_do_too(pair: Pair, sampler: str) -> None:
    arguments: dict[str, Any] = {"num_inference_steps": 5, "guidance_scale": 1.0, "strength": 0.7}
    expected = pair.expected("Img2Img", sampler, image=picture(), **arguments)
    assert difference(pair.draw(image=picture(), scheduler=sampler, **arguments), expected) <= 1


def test_the_comparison_can_fail(pair: Pair) -> None:
    first, second = (pair.draw(image=picture(), strength=strength) for strength in (0.5, 0.8))
    assert difference(first, second) > 1


def test_a_low_strength_still_draws_a_step(pair: Pair) -> None:
    fields: dict[str, Any] = {"image": picture(), "num_inference_steps": 4, "scheduler": "Euler"}
    assert difference(pair.draw(strength=0.0, **fields), pair.draw(strength=0.25, **fields)) == 0


@pytest.mark.parametrize("size", ["64x64", "96x48", "48x96"])
def test_an_image_of_another_size_is_resized_as_by_diffusers(pair: Pair, size: str) -> None:
    width, height = map(int, size.split("x"))
    for resize, mode in [("stretch", "default"), ("crop", "crop"), ("pad", "fill")]:
        processor = pair.plain("Img2Img").image_processor
        resized = processor.resize(picture(80, 56), height, width, mode)
        expected = pair.expected(
            "Img2Img", "LCM", image=resized, num_inference_steps=4, guidance_scale=1.0, strength=0.5
        )
        drawn = pair.draw(image=picture(80, 56), size=size, resize=resize, strength=0.5)
        assert difference(drawn, expected) <= 1


def test_latents_are_resized_for_the_resize_latent(pair: Pair) -> None:
    pipe = pair.plain("Img2Img")
    generator = torch.Generator("cpu").manual_seed(7)
    pixels = pipe.image_processor.preprocess(picture(80, 56))
    with torch.inference_mode():
        latents = pipe.vae.encode(pixels).latent_dist.sample(generator) * pipe.vae.config.scaling_factor
    larger = torch.nn.functional.interpolate(latents, size=(8, 12), mode="bilinear")
    pipe.scheduler = diffusers.LCMScheduler.from_config(pipe.scheduler.config)
    expected = pipe(
        "a lake at dawn",
        image=larger,
        generator=generator,
        num_inference_steps=4,
        guidance_scale=1.0,
        strength=0.5,
        output_type="np",
    ).images[0]
    drawn = pair.draw(image=picture(80, 56), size="96x64", resize="latent", strength=0.5)
    assert difference(drawn, (expected * 255).round().astype(np.uint8)) <= 1
