"""The page's editor: a mask, and sides around the picture."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from imagegen_core import InpaintOptions, generate
from imagegen_core.worker import Worker
from tests.server.page.actions import HAS_PLAYWRIGHT, done, fill
from tests.server.page.pictures import (
    Pixels,
    Pointer,
    choose,
    close,
    download,
    edit,
    encoded,
    noise,
    pixels,
    post,
    sent,
)

if HAS_PLAYWRIGHT:
    from playwright.sync_api import Page, expect

_LAKE = noise(100, 60)
_SMALL = {"Prompt": "a lake", "Steps": "2", "Seed": "3"}


def _mask(page: Page) -> Pixels:
    """Draw, and return the posted mask's grey values."""
    mask = pixels(sent(post(page), "mask"))
    assert mask.shape == (60, 100, 3)
    return mask[..., 0]


@pytest.mark.parametrize("kind", ["mouse", "touch", "pen"])
def test_mask_is_painted_with_any_pointer(open_page: Callable[..., Page], worker: Worker, kind: str) -> None:
    page = open_page(has_touch=kind == "touch")
    fill(page, _SMALL)
    choose(page, _LAKE)
    picture = edit(page)
    page.get_by_label("Brush width").fill("20")
    pointer = Pointer(page, kind)
    pointer.stroke(picture, (0.3, 0.5), (0.4, 0.5), (0.7, 0.5))
    close(page)
    expect(page.locator("#input-name")).to_have_text("lake.png, 100x60, with a mask")
    expect(page.get_by_label("Strength", exact=True)).to_have_value("1")
    mask = _mask(page)
    painted = np.argwhere(mask == 255)
    assert np.abs(painted.min(axis=0) - (20, 20)).max() <= 1
    assert np.abs(painted.max(axis=0) - (39, 79)).max() <= 1
    assert mask[30, 25:75].min() == 255
    assert (mask[:19].max(), mask[42:].max(), mask[:, :19].max(), mask[:, 81:].max()) == (0, 0, 0, 0)
    drawn = download(page)
    if kind == "mouse":
        expected = generate(
            "a lake",
            image=_LAKE,
            mask=encoded(Image.fromarray(mask)),
            size="96x56",
            num_inference_steps=2,
            seed=3,
            worker=worker,
        )
        assert (pixels(drawn) == np.asarray(expected.image)).all()


def test_options_of_the_mask_are_drawn_as_in_python(open_page: Callable[..., Page], worker: Worker) -> None:
    page = open_page()
    fill(page, _SMALL)
    choose(page, _LAKE)
    page.get_by_text("Fit and mask").click()
    picture = edit(page)
    page.get_by_label("Brush width").fill("30")
    Pointer(page, "mouse").stroke(picture, (0.3, 0.5), (0.7, 0.5))
    close(page)
    page.get_by_label("Masked part at the start").select_option("noise")
    fill(page, {"Mask blur": "1.5", "Size": "64x64"})
    page.get_by_label("Strength", exact=True).fill("0.6")
    expect(page.get_by_label("Padding")).to_be_disabled()
    page.get_by_label("Only the masked part").check()
    fill(page, {"Padding": "8"})
    request = post(page)
    options = {"fill": "noise", "blur": 1.5, "only_masked": True, "padding": 8}
    assert request["inpaint"] == options
    drawn = download(page)
    fields = {"image": _LAKE, "mask": sent(request, "mask"), "strength": 0.6, "inpaint": InpaintOptions(**options)}
    expected = generate("a lake", size="64x64", num_inference_steps=2, seed=3, worker=worker, **fields)
    assert (pixels(drawn) == np.asarray(expected.image)).all()

    page.get_by_label("Invert the mask").check()
    page.get_by_label("Only the masked part").uncheck()
    assert post(page)["inpaint"] == {"fill": "noise", "blur": 1.5, "invert": True}
    expect(page.locator("figure")).to_have_count(2)
    done(page).get_by_role("button", name="Reuse").click()
    expect(page.get_by_label("Invert the mask")).to_be_checked()
    edit(page)
    page.get_by_role("button", name="Clear").click()
    close(page)
    expect(page.get_by_label("Mask blur")).to_be_hidden()
    assert "inpaint" not in post(page)


def test_eraser_undo_and_clear(open_page: Callable[..., Page]) -> None:
    page = open_page()
    fill(page, _SMALL)
    choose(page, _LAKE)
    picture = edit(page)
    pointer = Pointer(page, "mouse")
    undo, clear = (page.get_by_role("button", name=name, exact=True) for name in ("Undo", "Clear"))
    expect(undo).to_be_disabled()
    expect(clear).to_be_disabled()
    page.get_by_label("Brush width").fill("12")
    pointer.stroke(picture, (0.1, 0.5), (0.9, 0.5))
    pointer.stroke(picture, (0.5, 0.9))
    undo.click()
    page.get_by_label("Eraser").check()
    pointer.stroke(picture, (0.5, 0.5), (0.9, 0.5))
    clear.click()
    page.keyboard.press("Control+z")
    close(page)
    mask = _mask(page)
    assert (mask[30, 30], mask[30, 60], mask[30, 85], mask[54, 50]) == (255, 0, 0, 0)
    done(page)

    edit(page)
    clear.click()
    close(page)
    assert "mask" not in post(page)
    edit(page)
    page.get_by_label("Brush", exact=True).check()
    pointer.stroke(picture, (0.5, 0.5))
    page.get_by_label("Eraser").check()
    page.get_by_label("Brush width").fill("50")
    pointer.stroke(picture, (0.5, 0.5))
    close(page)
    assert "mask" not in post(page)


def test_mask_is_painted_with_the_keyboard(open_page: Callable[..., Page]) -> None:
    page = open_page()
    fill(page, _SMALL)
    choose(page, _LAKE)
    edit(page)
    page.get_by_label("Brush width").fill("10")
    page.locator("#stage").focus()
    for key in ("Space", "ArrowRight", "ArrowRight", "ArrowDown", "Space"):
        page.keyboard.press(key)
    close(page)
    mask = _mask(page)
    assert (mask[30, 50], mask[35, 60], mask[30, 30]) == (255, 255, 0)


@pytest.mark.parametrize("kind", ["mouse", "touch"])
def test_sides_are_dragged_or_typed_and_drawn_as_in_python(
    open_page: Callable[..., Page], worker: Worker, kind: str
) -> None:
    page = open_page(has_touch=kind == "touch")
    fill(page, _SMALL)
    choose(page, _LAKE)
    picture = edit(page)
    width = picture.evaluate("layer => layer.getBoundingClientRect().width")
    pointer = Pointer(page, kind)
    handle = page.locator('.handle[data-side="left"]')
    grip = handle.bounding_box()
    assert grip is not None
    pixels_wide = grip["width"] / width * 100
    pointer.stroke(handle, (0.9, 0.5), (0.9 - 32 / pixels_wide, 0.5))
    expect(page.get_by_label("Left")).to_have_value("32")
    page.get_by_label("Bottom").fill("20")
    expect(page.get_by_text("136x80 in all")).to_be_visible()
    close(page)
    expect(page.get_by_label("Size", exact=True)).to_have_value("136x80")
    request = post(page)
    assert request["outpaint"] == {"left": 32, "top": 0, "right": 0, "bottom": 20}
    assert "mask" not in request
    drawn = pixels(download(page))
    sides = request["outpaint"]
    expected = generate("a lake", image=_LAKE, outpaint=sides, num_inference_steps=2, seed=3, worker=worker)
    assert (drawn == np.asarray(expected.image)).all()
    before = done(page).locator("canvas").evaluate("canvas => canvas.toDataURL()")
    assert (pixels(sent({"image": before}, "image"))[:60, 36:] == pixels(_LAKE)).all()
    assert (drawn[:60, 36:] == pixels(_LAKE)).all()


def test_editor_fits_the_width_of_a_phone_and_names_its_controls(open_page: Callable[..., Page]) -> None:
    page = open_page(viewport={"width": 360, "height": 740}, has_touch=True)
    choose(page, _LAKE)
    edit(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    dialog = page.get_by_role("dialog")
    assert dialog.evaluate("dialog => dialog.scrollWidth <= dialog.clientWidth")
    controls = dialog.locator("input, button, #stage").filter(visible=True)
    assert controls.count() == 11
    for control in controls.all():
        expect(control).to_have_accessible_name(re.compile(r"\w"))
