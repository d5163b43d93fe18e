"""Inpainting equals the plain pipelines before pasting, and the pixels outside the mask are the original's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from imagegen_core import InpaintOptions, InvalidRequestError, OutpaintOptions
from imagegen_core.diffusion import canvas
from tests.pictures_in.conftest import Pair, difference, mask, picture, pixels


@pytest.mark.usefixtures("unpasted")
def test_a_checkpoint_with_9_channels_also_draws_without_a_mask(inpainter: Pair) -> None:
    """As A1111 does: the network sees a grey picture, masked everywhere."""
    white = Image.new("L", (64, 48), 255)
    arguments: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 3.0}
    shape: dict[str, Any] = {"mask_image": white, "width": 64, "height": 48}
    expected = inpainter.expected("Inpaint", "Euler", image=picture(), strength=1.0, **shape, **arguments)
    assert difference(inpainter.draw(size="64x48", scheduler="Euler", **arguments), expected) <= 1
    expected = inpainter.expected("Inpaint", "Euler", image=picture(), strength=0.6, **shape, **arguments)
    drawn = inpainter.draw(image=picture(), strength=0.6, scheduler="Euler", **arguments)
    assert difference(drawn, expected) <= 1


@pytest.mark.parametrize("invert", [False, True])
def test_pixels_outside_the_mask_are_the_originals(pair: Pair, invert: bool) -> None:
    white = mask() if not invert else ImageOps.invert(mask())
    drawn = pair.draw(image=picture(), mask=white, inpaint=InpaintOptions(invert=invert))
    kept = pixels(mask()) == 0
    assert (drawn[kept] == pixels(picture())[kept]).all()
    assert (drawn[~kept] != pixels(picture())[~kept]).any()


def test_a_soft_mask_mixes_both(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    soft = mask().filter(ImageFilter.GaussianBlur(4))
    drawn = pair.draw(image=picture(), mask=soft)
    assert (pair.draw(image=picture(), mask=mask(), inpaint=InpaintOptions(blur=4)) == drawn).all()
    kept = pixels(soft) == 0
    assert (drawn[kept] == pixels(picture())[kept]).all()
    monkeypatch.setattr(canvas.Canvas, "pasted", lambda _self, decoded: decoded)
    alone = pair.draw(image=picture(), mask=soft)
    share = pixels(soft)[..., None].astype(float) / 255
    mixed = alone * share + pixels(picture()) * (1 - share)
    assert np.abs(mixed - drawn).max() <= 1


@pytest.mark.parametrize("padding", [0, 8])
def test_only_the_masked_part_is_drawn_and_pasted_as_by_diffusers(pair: Pair, padding: int) -> None:
    large, small_mask = picture(131, 93), Image.new("L", (131, 93), 0)
    small_mask.paste(255, (70, 20, 90, 50))
    arguments: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 1.0, "strength": 0.9}
    expected = pair.expected(
        "Inpaint",
        "LCM",
        image=large,
        mask_image=small_mask,
        padding_mask_crop=padding,
        width=64,
        height=64,
        **arguments,
    )
    options = InpaintOptions(only_masked=True, padding=padding)
    drawn = pair.draw(image=large, mask=small_mask, size="64x64", inpaint=options, **arguments)
    assert drawn.shape == (93, 131, 3)
    kept = pixels(small_mask) == 0
    assert (drawn[kept] == pixels(large)[kept]).all()
    assert difference(drawn[~kept], expected[~kept]) <= 1


@pytest.mark.parametrize("fill", ["surroundings", "noise", "zeros"])
def test_each_fill_changes_the_masked_part_alone(pair: Pair, fill: str) -> None:
    fields: dict[str, Any] = {"image": picture(), "mask": mask(), "strength": 0.5}
    filled, plain = (pair.draw(inpaint=InpaintOptions(fill=name), **fields) for name in (fill, "original"))
    kept = pixels(mask()) == 0
    assert (filled[kept] == plain[kept]).all()
    assert (filled != plain).any()


def test_surroundings_are_the_colours_around() -> None:
    image, hole = Image.new("RGB", (64, 64), (200, 40, 90)), Image.new("L", (64, 64), 0)
    hole.paste(255, (20, 20, 44, 44))
    image.paste((0, 0, 0), (20, 20, 44, 44))
    filled = pixels(canvas.surroundings(image, hole)).astype(int)
    assert np.abs(filled - [200, 40, 90]).max() <= 12


def test_outpainting_keeps_the_image(pair: Pair) -> None:
    drawn = pair.draw(image=picture(61, 43), outpaint=OutpaintOptions(left=20, bottom=9))
    assert drawn.shape == (56, 88, 3)
    left = 88 - 61
    assert (drawn[:43, left:] == pixels(picture(61, 43))).all()
    assert drawn[:, :left].std() > 0
    assert drawn[43:].std() > 0


def test_outpainting_also_repaints_a_mask(pair: Pair) -> None:
    fields: dict[str, Any] = {"image": picture(), "outpaint": OutpaintOptions(right=16)}
    drawn = pair.draw(mask=mask(), **fields)
    kept = pixels(mask()) == 0
    assert drawn.shape == (48, 80, 3)
    assert (drawn[:, :64][kept] == pixels(picture())[kept]).all()
    assert (drawn[:, :64][~kept] != pixels(picture())[~kept]).any()


def test_a_black_mask_is_refused(pair: Pair) -> None:
    with pytest.raises(InvalidRequestError, match="black everywhere") as caught:
        pair.draw(image=picture(), mask=Image.new("L", (64, 48), 0))
    assert caught.value.field == "mask"


def test_a_damaged_image_is_refused_with_its_field(pair: Pair) -> None:
    with pytest.raises(InvalidRequestError, match="transparent parts") as caught:
        pair.draw(image=Image.new("RGBA", (64, 48)))
    assert caught.value.field == "image"
    with pytest.raises(InvalidRequestError, match="transparent parts") as caught:
        pair.draw(image=picture(), mask=Image.new("LA", (64, 48)))
    assert caught.value.field == "mask"


@pytest.mark.parametrize(("size", "resize"), [((800_000, 1), "crop"), ((4000, 8), "pad")])
def test_extreme_proportions_are_refused(pair: Pair, size: tuple[int, int], resize: str) -> None:
    with pytest.raises(InvalidRequestError, match="similar proportions") as caught:
        pair.draw(image=Image.new("RGB", size), size="64x64", resize=resize)
    assert caught.value.field == "resize"


@pytest.mark.parametrize("size", [(1, 1), (8192, 8)])
def test_tiny_and_narrow_images_are_stretched(pair: Pair, size: tuple[int, int]) -> None:
    assert pair.draw(image=Image.new("RGB", size, (9, 8, 7)), size="64x64").shape == (64, 64, 3)


def test_an_image_guidance_needs_its_checkpoint(pair: Pair) -> None:
    with pytest.raises(InvalidRequestError, match="instruct-pix2pix"):
        pair.draw(image=picture(), image_guidance_scale=2.0)
