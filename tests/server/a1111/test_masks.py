"""Masks of ``img2img``: A1111's polarity, area, fill and blur."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from imagegen_core import read_recipe
from tests.pictures_in.conftest import mask, picture
from tests.server.a1111.conftest import Poster, base64_of, pixels_of

WHOLE: dict[str, Any] = {"inpaint_full_res": False, "mask_blur": 0, "inpainting_fill": 1, "denoising_strength": 0.8}
ORIGINAL, WHITE = np.asarray(picture()), np.asarray(mask()) > 0


def by_alpha(values: Image.Image, colour: int = 0) -> Image.Image:
    """Return a mask in one colour, with `values` as its transparency."""
    image = Image.new("RGBA", values.size, (colour,) * 3)
    image.putalpha(values)
    return image


def test_white_is_drawn_and_black_stays(img2img: Poster) -> None:
    drawn = img2img.draw(mask=base64_of(mask()), **WHOLE)
    assert (drawn[~WHITE] == ORIGINAL[~WHITE]).all()
    assert (drawn[WHITE] != ORIGINAL[WHITE]).any()


@pytest.mark.parametrize("colour", [0, 255])
def test_with_transparent_parts_an_alpha_above_128_is_drawn(img2img: Poster, colour: int) -> None:
    faint = mask().point(lambda value: 129 if value else 128)
    drawn = img2img.draw(mask=base64_of(by_alpha(faint, colour)), **WHOLE)
    assert (drawn == img2img.draw(mask=base64_of(mask()), **WHOLE)).all()


def test_an_opaque_mask_with_alpha_is_read_by_its_colours(img2img: Poster) -> None:
    opaque = mask().convert("RGBA")
    assert (img2img.draw(mask=base64_of(opaque), **WHOLE) == img2img.draw(mask=base64_of(mask()), **WHOLE)).all()


def test_an_inverted_mask_keeps_its_white(img2img: Poster) -> None:
    drawn = img2img.draw(mask=base64_of(mask()), inpainting_mask_invert=1, **WHOLE)
    assert (drawn[WHITE] == ORIGINAL[WHITE]).all()
    other = img2img.draw(mask=base64_of(ImageOps.invert(mask())), **WHOLE)
    assert (drawn == other).all()


def test_only_masked_is_the_default_and_keeps_the_originals_size(img2img: Poster) -> None:
    large = picture(128, 96)
    answer = img2img.answer(init_images=[base64_of(large)], mask=base64_of(mask(128, 96)))
    (text,) = answer["images"]
    assert pixels_of(text).shape == (96, 128, 3)
    info = json.loads(answer["info"])
    assert (info["width"], info["height"]) == (64, 48)  # as in A1111, the size of the drawn part
    recipe = read_recipe(base64.b64decode(text))
    assert recipe.inpaint == {"fill": "surroundings", "blur": 4.0, "only_masked": True, "padding": 0}
    assert info["extra_generation_params"] == {
        "Denoising strength": 0.75,
        "Mask blur": 4,
        "Inpaint area": "Only masked",
        "Masked area padding": 0,
        "Masked content": "fill",
    }
    for words in (
        "Mask blur: 4, ",
        "Inpaint area: Only masked, ",
        "Masked area padding: 0, ",
        "Masked content: fill, ",
    ):
        assert words in info["infotexts"][0]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"inpainting_fill": 0}, {"fill": "surroundings", "blur": 4.0}),
        ({"inpainting_fill": 1}, {"blur": 4.0}),
        ({"inpainting_fill": 2}, {"fill": "noise", "blur": 4.0}),
        ({"inpainting_fill": 3}, {"fill": "zeros", "blur": 4.0}),
        ({"inpainting_fill": 1, "mask_blur": 9}, {"blur": 9.0}),
        ({"inpainting_fill": 1, "mask_blur": 0, "mask_blur_x": 4, "mask_blur_y": 5}, {}),
        ({"inpainting_fill": 1, "mask_blur_x": 6, "mask_blur_y": 6}, {"blur": 6.0}),
        ({"inpainting_fill": 1, "mask_blur": 0.5}, {}),
        (
            {"inpainting_fill": 1, "inpaint_full_res": 1, "inpaint_full_res_padding": 8},
            {"blur": 4.0, "only_masked": True, "padding": 8},
        ),
    ],
)
def test_fields_have_a1111s_meaning(img2img: Poster, fields: dict[str, Any], expected: dict[str, Any]) -> None:
    body = {"inpaint_full_res": False, "steps": 1, **fields}
    recipe = read_recipe(base64.b64decode(img2img.answer(mask=base64_of(mask()), **body)["images"][0]))
    given = dict(recipe.inpaint or {})
    if "only_masked" not in expected:
        assert given.pop("padding") == 0
    assert given == expected


def test_a_blank_mask_draws_the_whole_image_if_only_masked_is_on(img2img: Poster) -> None:
    blank = base64_of(Image.new("L", (64, 48)))
    answer = img2img.answer(mask=blank)
    assert (pixels_of(answer["images"][0]) == img2img.draw()).all()
    assert json.loads(answer["info"])["extra_generation_params"] == {"Denoising strength": 0.75}
    assert "The mask is black everywhere" in img2img.refusal(mask=blank, inpaint_full_res=False)


def test_a_resize_mode_has_no_effect_on_only_the_masked_part(img2img: Poster) -> None:
    fields = {"mask": base64_of(mask()), "inpainting_fill": 1}
    assert (img2img.draw(resize_mode=3, **fields) == img2img.draw(**fields)).all()


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "another size": ({"mask": base64_of(mask(32, 24))}, "The mask has 32x24 pixels and the image 64x48"),
    "two blurs": ({"mask_blur_x": 4, "mask_blur_y": 8}, "Invalid mask_blur_y 8: the blur is the same in both"),
    "latents": (
        {"resize_mode": 3, "inpaint_full_res": False},
        "Invalid resize_mode 3: a mask needs the image's pixels",
    ),
    "a wide blur": ({"mask_blur": 10**300}, "Invalid mask_blur 1000000000"),
    "a wide padding": ({"inpaint_full_res_padding": 2000}, "Invalid inpaint.padding 2000: expected a whole number"),
    "fill": ({"inpainting_fill": 4}, "Invalid inpainting_fill 4"),
    "soft": ({"mask_round": False}, "mask_round='False' is nothing this server does"),
    "weight": (
        {"override_settings": {"inpainting_mask_weight": 0.5}},
        "The option inpainting_mask_weight is 0.5, and img2img draws here with 1",
    ),
    "no picture": ({"mask": "aGVsbG8="}, "Cannot read the picture in mask: it is not a PNG"),
}


@pytest.mark.parametrize(("fields", "sentence"), WRONG.values(), ids=WRONG)
def test_wrong_masks_are_refused(img2img: Poster, fields: dict[str, Any], sentence: str) -> None:
    assert sentence in img2img.refusal(**{"mask": base64_of(mask()), **fields})
