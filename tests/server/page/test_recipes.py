"""The page reads recipes from pictures."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import httpx2 as httpx
from PIL import Image

from tests.server.page.actions import (
    HAS_PLAYWRIGHT,
    done,
    draw,
    drop,
    expect_form,
    file,
    fill,
    png,
)
from tests.server.page.pictures import Pointer, choose, close, download, edit, encoded, noise, pixels, post

if HAS_PLAYWRIGHT:
    from playwright.sync_api import Page, expect


def test_downloaded_picture_restores_its_recipe(open_page: Callable[..., Page]) -> None:
    page = open_page()
    fill(page, {"Prompt": "a lake: dawn, “mist”", "Seed": str(2**63 - 1), "Size": "64x128", "Steps": "3"})
    page.get_by_label("Sampler", exact=True).select_option("Euler a")
    draw(page)
    with page.expect_download() as download:
        done(page).get_by_role("link", name="Download").click()
    picture = Path(download.value.path()).read_bytes()
    expected = {"Prompt": "a lake: dawn, “mist”", "Seed": str(2**63 - 1), "Size": "64x128", "Steps": "3"}

    page.reload()
    page.get_by_label("Load a PNG's recipe").set_input_files(file(picture))
    expect_form(page, expected | {"Sampler": "Euler a"})

    page.reload()
    expect(page.get_by_label("Sampler", exact=True).get_by_role("option", name="Euler a")).to_have_count(1)
    drop(page, picture, "Load its recipe")
    expect_form(page, expected | {"Sampler": "Euler a"})
    expect(page.get_by_text("The form has the recipe of lake.png.")).to_be_visible()


def test_reuse_fills_the_form_and_remove_deletes_the_picture(open_page: Callable[..., Page]) -> None:
    page = open_page()
    fill(page, {"Prompt": "a lake", "Size": "64x64", "Steps": "1"})
    draw(page)
    figure = done(page)
    seed = figure.locator(".seed").inner_text().removeprefix("Seed ")
    fill(page, {"Prompt": "another", "Size": ""})
    figure.get_by_role("button", name="Reuse").click()
    expect_form(page, {"Prompt": "a lake", "Size": "64x64", "Seed": seed})
    figure.get_by_role("button", name="Remove").click()
    expect(figure).to_have_count(0)
    expect(page.get_by_text("Nothing drawn yet")).to_be_visible()


def test_a1111_text_is_read_without_an_imagegen_recipe(open_page: Callable[..., Page]) -> None:
    page = open_page()
    text = (
        "a boat\non a lake\nNegative prompt: fog\n"
        'Steps: 4, Sampler: LCM, CFG scale: 1.5, Seed: 7, Size: 256x128, Model: "a, b", Version: v1'
    )
    expected = {
        "Prompt": "a boat\non a lake",
        "Negative prompt": "fog",
        "Steps": "4",
        "Sampler": "LCM",
        "Guidance scale": "1.5",
        "Seed": "7",
        "Size": "256x128",
    }
    for method in ("add_text", "add_itxt"):
        page.get_by_label("Load a PNG's recipe").set_input_files(file(png(method, "parameters", text)))
        expect_form(page, expected)
        page.reload()


def test_a1111_pictures_are_drawn_again(open_page: Callable[..., Page], page_server: str) -> None:
    """The steps of hires are A1111's: all of them are drawn, as the last ones of a longer schedule."""
    body = {
        "prompt": "a lake",
        "seed": 3,
        "width": 64,
        "height": 64,
        "steps": 3,
        "sampler_name": "Euler",
        "scheduler": "Karras",
        "cfg_scale": 2,
        "denoising_strength": 0.7,
        "enable_hr": True,
        "hr_resize_x": 96,
        "hr_second_pass_steps": 2,
        "hr_upscaler": "Latent (bicubic)",
        "hr_sampler_name": "DPM++ 2M",
        "hr_prompt": "a red circle, large",
        "subseed": 2**63 - 2,
        "subseed_strength": 0.25,
        "seed_resize_from_w": 32,
        "seed_resize_from_h": 48,
    }
    response = httpx.post(f"{page_server}/sdapi/v1/txt2img", json=body, timeout=60)
    drawn, text = base64.b64decode(response.json()["images"][0]), json.loads(response.json()["info"])["infotexts"][0]
    page = open_page()
    page.get_by_label("Load a PNG's recipe").set_input_files(file(png("add_itxt", "parameters", text)))
    expect(page.get_by_text("The form has the recipe of lake.png.", exact=True)).to_be_visible()
    expected = {"Second stage": "96x96", "Stage upscaler": "latent (bicubic)", "Variation seed": str(2**63 - 2)}
    expect_form(page, expected | {"Stage prompt": "a red circle, large", "Stage sampler": "DPM++ 2M"})
    request = post(page)
    assert request["variation"] == {"seed": 2**63 - 2, "strength": 0.25, "resize_from": "32x48"}
    assert (pixels(download(page)) == pixels(drawn)).all()


def test_a1111_pictures_from_a_picture_are_drawn_again(open_page: Callable[..., Page], page_server: str) -> None:
    image, white = noise(64, 48), encoded(Image.new("L", (64, 48), 255))
    body = {
        "prompt": "a lake",
        "init_images": [base64.b64encode(image).decode()],
        "mask": base64.b64encode(white).decode(),
        "seed": 3,
        "width": 64,
        "height": 48,
        "steps": 6,
        "sampler_name": "Euler",
        "mask_blur": 2,
        "inpainting_fill": 2,
        "inpaint_full_res_padding": 8,
    }
    response = httpx.post(f"{page_server}/sdapi/v1/img2img", json=body, timeout=60)
    drawn, text = base64.b64decode(response.json()["images"][0]), json.loads(response.json()["info"])["infotexts"][0]
    page = open_page()
    page.get_by_label("Load a PNG's recipe").set_input_files(file(png("add_itxt", "parameters", text)))
    expect(page.get_by_text("It began with a picture: choose it as the input. It had a mask")).to_be_visible()
    choose(page, image)
    stage = edit(page)
    page.get_by_label("Brush width").fill("32")
    for height in (0.15, 0.5, 0.85):  # covers the picture
        Pointer(page, "mouse").stroke(stage, (0, height), (1, height))
    close(page)
    request = post(page)
    assert request["inpaint"] == {"fill": "noise", "blur": 2, "padding": 8, "only_masked": True}
    assert (pixels(download(page)) == pixels(drawn)).all()


def test_a1111_values_without_a_field_are_told(open_page: Callable[..., Page]) -> None:
    page = open_page()
    text = "a lake\nSteps: 4, Sampler: LCM, Seed: 7, Size: 64x64, Tiling: True, Eta: 0.5, Model hash: 0123456789"
    page.get_by_label("Load a PNG's recipe").set_input_files(file(png("add_text", "parameters", text)))
    told = page.get_by_text("The form has the recipe of lake.png.")
    expect(told).to_contain_text("It was drawn with Tiling True, which this page does not set.")
    expect(told).to_contain_text("It was drawn with eta 0.5, which this page does not set.")
    expect(told).not_to_contain_text("hash")


def test_file_without_a_recipe_is_reported(open_page: Callable[..., Page]) -> None:
    page = open_page()
    page.get_by_label("Load a PNG's recipe").set_input_files(file(png("add_text", "Comment", "none")))
    expect(page.get_by_role("alert")).to_contain_text("There is no recipe in lake.png")
    page.get_by_label("Load a PNG's recipe").set_input_files(file(b"no picture at all"))
    expect(page.get_by_role("alert")).to_contain_text("lake.png is not a PNG")
