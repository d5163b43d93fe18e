"""The page reads recipes from pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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

if HAS_PLAYWRIGHT:
    from playwright.sync_api import Page, expect


def test_downloaded_picture_restores_its_recipe(open_page: Callable[..., Page]) -> None:
    page = open_page()
    fill(page, {"Prompt": "a lake: dawn, “mist”", "Seed": str(2**63 - 1), "Size": "64x128", "Steps": "3"})
    page.get_by_label("Sampler").select_option("Euler a")
    draw(page)
    with page.expect_download() as download:
        done(page).get_by_role("link", name="Download").click()
    picture = Path(download.value.path()).read_bytes()
    expected = {"Prompt": "a lake: dawn, “mist”", "Seed": str(2**63 - 1), "Size": "64x128", "Steps": "3"}

    page.reload()
    page.get_by_label("Load a PNG's recipe").set_input_files(file(picture))
    expect_form(page, expected | {"Sampler": "Euler a"})

    page.reload()
    expect(page.get_by_label("Sampler").get_by_role("option", name="Euler a")).to_have_count(1)
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


def test_file_without_a_recipe_is_reported(open_page: Callable[..., Page]) -> None:
    page = open_page()
    page.get_by_label("Load a PNG's recipe").set_input_files(file(png("add_text", "Comment", "none")))
    expect(page.get_by_role("alert")).to_contain_text("There is no recipe in lake.png")
    page.get_by_label("Load a PNG's recipe").set_input_files(file(b"no picture at all"))
    expect(page.get_by_role("alert")).to_contain_text("lake.png is not a PNG")
