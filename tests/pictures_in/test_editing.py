"""instruct-pix2pix checkpoints equal the plain pipelines."""

from __future__ import annotations

from typing import Any

import pytest

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


def test_the_default_image_guidance_is_diffusers(editor: Pair) -> None:
    fields: dict[str, Any] = {"image": picture(), "guidance_scale": 4.0}
    assert (editor.draw(**fields) == editor.draw(image_guidance_scale=1.5, **fields)).all()


def test_it_also_draws_without_a_picture(editor: Pair) -> None:
    assert editor.draw(size="64x48", guidance_scale=4.0).shape == (48, 64, 3)


def test_a_strength_of_1_means_all_steps(editor: Pair) -> None:
    fields: dict[str, Any] = {"image": picture(), "guidance_scale": 4.0}
    assert (editor.draw(strength=1.0, **fields) == editor.draw(**fields)).all()


@pytest.mark.parametrize(
    "fields", [{"mask": mask()}, {"outpaint": OutpaintOptions(left=8)}, {"strength": 0.5}, {"resize": "latent"}]
)
def test_fields_without_a_meaning_are_refused(editor: Pair, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match="whole image") as caught:
        editor.draw(image=picture(), **fields)
    assert caught.value.field == next(iter(fields))
