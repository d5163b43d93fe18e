"""The page draws from a picture."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from imagegen_core import generate
from imagegen_core.worker import Worker
from tests.server.page.actions import HAS_PLAYWRIGHT, done, drop, expect_form, file, fill
from tests.server.page.pictures import choose, download, encoded, noise, pixels, post, sent

if HAS_PLAYWRIGHT:
    from playwright.sync_api import Page, expect

_LAKE = noise(96, 64)
_SMALL = {"Prompt": "a lake", "Steps": "2", "Seed": "3"}


def test_picture_is_chosen_dropped_or_pasted_and_removed(open_page: Callable[..., Page]) -> None:
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    name = page.locator("#input-name")
    thumbnail = page.get_by_role("img", name="lake.png, 96x64")
    fill(page, _SMALL)

    def remove() -> None:
        page.get_by_role("button", name="Remove input").click()
        expect(name).to_be_hidden()
        expect(page.get_by_label("Size", exact=True)).to_have_value("")

    choose(page, _LAKE)
    expect(thumbnail).to_be_visible()
    expect(page.get_by_label("Size", exact=True)).to_have_value("96x64")
    remove()
    drop(page, _LAKE, "Begin with this picture")
    expect(thumbnail).to_be_visible()
    expect(page.get_by_label("Size", exact=True)).to_have_value("96x64")
    remove()
    page.evaluate(
        """async (bytes) => {
            const blob = new Blob([new Uint8Array(bytes)], { type: "image/png" });
            await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
        }""",
        list(_LAKE),
    )
    page.keyboard.press("Control+v")
    expect(name).to_contain_text("96x64")
    assert (pixels(sent(post(page), "image")) == pixels(_LAKE)).all()
    done(page)
    remove()
    fill(page, {"Size": "64x64"})
    assert "image" not in post(page)


def test_picture_with_a_strength_is_drawn_as_in_python_and_compared_with_its_input(
    open_page: Callable[..., Page], worker: Worker
) -> None:
    page = open_page()
    fill(page, _SMALL | {"Steps": "4"})
    choose(page, _LAKE)
    strength = page.get_by_label("Strength", exact=True)
    expect(strength).to_have_value("0.8")
    strength.fill("0.6")
    request = post(page)
    assert sent(request, "image") == _LAKE
    picture = download(page)
    expected = generate("a lake", image=_LAKE, strength=0.6, num_inference_steps=4, seed=3, worker=worker)
    assert (pixels(picture) == np.asarray(expected.image)).all()

    figure = done(page)
    before = figure.locator("canvas")
    assert before.evaluate("canvas => getComputedStyle(canvas).clipPath") == "inset(0px 100% 0px 0px)"
    figure.get_by_label("Before and after").fill("25")
    assert before.evaluate("canvas => getComputedStyle(canvas).clipPath") == "inset(0px 75% 0px 0px)"
    assert (pixels(_shown(before)) == pixels(_LAKE)).all()
    figure.get_by_role("button", name="Enlarge").click()
    large = page.get_by_role("dialog")
    large.get_by_label("Before and after").fill("50")
    assert (pixels(_shown(large.locator("canvas"))) == pixels(_LAKE)).all()
    page.keyboard.press("Escape")

    figure.get_by_role("button", name="Use as input").click()
    expect(page.locator("#input-name")).to_have_text("imagegen-3.png, 96x64")
    expect(strength).to_have_value("0.8")
    assert sent(post(page), "image") == picture
    figure = done(page)
    page.get_by_role("button", name="Remove input").click()
    fill(page, {"Size": "64x64"})
    post(page)
    expect(done(page).get_by_label("Before and after")).to_be_hidden()


def test_picture_is_fitted_into_another_size_as_in_python(open_page: Callable[..., Page], worker: Worker) -> None:
    page = open_page()
    fill(page, _SMALL)
    choose(page, _LAKE)
    page.get_by_text("Fit and mask").click()
    page.get_by_label("Fit into the size").select_option("crop the edges")
    expect(page.get_by_label("Mask blur")).to_be_hidden()
    fill(page, {"Size": "64x64"})
    assert post(page)["resize"] == "crop"
    picture = download(page)
    expected = generate(
        "a lake", image=_LAKE, resize="crop", size="64x64", num_inference_steps=2, seed=3, worker=worker
    )
    assert (pixels(picture) == np.asarray(expected.image)).all()

    page.reload()
    page.get_by_label("Load a PNG's recipe").set_input_files(file(picture))
    choose(page, _LAKE)
    assert post(page)["resize"] == "crop"


def test_image_guidance_is_for_models_that_edit_pictures(open_page: Callable[..., Page]) -> None:
    page = open_page()
    guidance, strength = page.get_by_label("Image guidance"), page.get_by_label("Strength", exact=True)

    def look() -> None:
        choose(page, _LAKE)
        page.get_by_text("Fit and mask").click()

    look()
    expect(guidance).to_be_hidden()
    expect(strength).to_have_value("0.8")

    def respond(route: Any) -> None:
        models = route.fetch().json()
        for model in models["data"]:
            assert "image_guidance_scale" not in model["fields"]
            model["fields"].append("image_guidance_scale")
        route.fulfill(json=models)

    page.route("**/v1/models", respond)
    page.reload()
    look()
    expect(strength).to_have_value("1")
    guidance.fill("1.7")
    assert post(page)["image_guidance_scale"] == 1.7
    expect(page.get_by_role("alert")).to_contain_text("only an instruct-pix2pix checkpoint takes it")
    expect(guidance).to_have_attribute("aria-invalid", "true")


def test_reuse_restores_the_input_and_a_recipe_asks_for_it(open_page: Callable[..., Page]) -> None:
    page = open_page()
    fill(page, _SMALL)
    choose(page, _LAKE)
    strength = page.get_by_label("Strength", exact=True)
    strength.fill("0.35")
    fill(page, {"Size": "64x64"})
    first = post(page)
    picture = download(page)
    page.get_by_role("button", name="Remove input").click()
    done(page).get_by_role("button", name="Reuse").click()
    again = post(page)
    assert {name: again[name] for name in first} == first

    page.reload()
    page.get_by_label("Load a PNG's recipe").set_input_files(file(picture))
    expect(page.get_by_text("It began with a picture: choose it as the input.")).to_be_visible()
    choose(page, _LAKE)
    expect_form(page, {"Strength": "0.35", "Size": "64x64", "Seed": "3"})


def test_large_photograph_is_sent_whole_and_drawn_smaller(open_page: Callable[..., Page]) -> None:
    page = open_page()
    fill(page, _SMALL)
    photograph = Image.new("RGB", (1700, 1250))
    photograph.paste(Image.open(BytesIO(noise(700, 700))))  # makes the file larger than JSON without a picture may be
    data = encoded(photograph)
    choose(page, data)
    expect(page.get_by_label("Size", exact=True)).to_have_value("1688x1240")
    fill(page, {"Size": "64x48"})
    assert sent(post(page), "image") == data
    assert pixels(download(page)).shape == (48, 64, 3)


def test_unusable_pictures_are_reported(open_page: Callable[..., Page]) -> None:
    page = open_page()
    alert = page.get_by_role("alert")
    page.get_by_label("Choose a picture").set_input_files(file(b"no picture at all"))
    expect(alert).to_have_text("lake.png cannot be read as a picture: take a PNG, JPEG, WebP, BMP or GIF")
    choose(page, encoded(Image.new("I;16", (64, 64))))
    post(page)
    expect(alert).to_have_text("Cannot use the image: it has more than 8 bits a channel; save it with 8 bits first")


def test_controls_follow_the_models_fields(open_page: Callable[..., Page]) -> None:
    page = open_page()
    fill(page, _SMALL)
    choose(page, _LAKE)
    post(page)
    figure = done(page)
    mask = page.get_by_role("button", name="Mask and sides")
    dependents = [
        mask,
        page.get_by_label("Strength", exact=True),
        page.get_by_text("A low strength stays close"),
        page.get_by_label("Second stage"),
        page.get_by_label("Variation", exact=True),
        figure.get_by_role("button", name="Use as input"),
        figure.get_by_role("button", name="Vary"),
    ]
    for control in dependents:
        expect(control).to_be_visible()

    def without(*lacking: str) -> Callable[[Any], None]:
        def respond(route: Any) -> None:
            models = route.fetch().json()
            for model in models["data"]:
                model["fields"] = [field for field in model["fields"] if field not in lacking]
            route.fulfill(json=models)

        return respond

    page.route("**/v1/models", without("mask", "inpaint", "outpaint"))
    page.reload()
    choose(page, _LAKE)
    expect(mask).to_be_hidden()
    page.route("**/v1/models", without("image", "mask", "outpaint", "strength", "hires", "variation"))
    page.reload()
    expect(page.get_by_text("This model draws from a prompt alone.")).to_be_visible()
    for control in dependents:
        expect(control).to_be_hidden()
    drop(page, _LAKE, "Begin with this picture")
    expect(page.get_by_role("alert")).to_have_text("This model does not draw from a picture: choose another mode")


def _shown(canvas: Any) -> bytes:
    url = canvas.evaluate("canvas => canvas.toDataURL()")
    return sent({"image": url}, "image")
