"""Draw pictures on the page."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from tests.server.page.actions import (
    HAS_PLAYWRIGHT,
    done,
    draw,
    fill,
    recipe,
)
from tests.server.page.conftest import serving

if HAS_PLAYWRIGHT:
    from playwright.sync_api import Page, expect


def test_page_draws_a_picture_and_shows_its_seed(open_page: Callable[..., Page]) -> None:
    page = open_page()
    page.evaluate(
        """() => {
            window.previews = new Set();
            const look = () => document.querySelectorAll("figure[data-state=drawing] img[src^='data:image/png']")
                .forEach((image) => window.previews.add(image.src));
            new MutationObserver(look).observe(
                document.getElementById("gallery"), { subtree: true, childList: true, attributes: true });
        }"""
    )
    fill(page, {"Prompt": "a red circle on a blue background", "Seed": "7", "Size": "128x64", "Steps": "6"})
    draw(page)
    figure = done(page)
    expect(figure).to_contain_text("Seed 7")
    expect(figure).to_contain_text("a red circle on a blue background")
    expect(figure.get_by_role("progressbar")).to_be_hidden()
    assert figure.locator("img").evaluate("image => [image.naturalWidth, image.naturalHeight]") == [128, 64]
    previews = page.evaluate("[...window.previews]")
    assert previews
    with Image.open(BytesIO(base64.b64decode(previews[0].partition(",")[2]))) as preview:
        assert preview.size == (16, 8)
    figure.get_by_text("Recipe").click()
    terms = dict(zip(figure.locator("dt").all_inner_texts(), figure.locator("dd").all_inner_texts(), strict=True))
    assert terms["Size"] == "128x64"
    assert (terms["Seed"], terms["Steps"], terms["Model"]) == ("7", "6", "demo")
    with page.expect_download() as download:
        figure.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "imagegen-7.png"
    assert recipe(Path(download.value.path()))["seed"] == 7


def test_seeds_count_up_and_newer_pictures_come_first(open_page: Callable[..., Page]) -> None:
    page = open_page()
    fill(page, {"Prompt": "a lake", "Seed": str(2**63 - 6), "Size": "64x64", "Steps": "1", "Count": "5"})
    draw(page)
    expect(page.locator("figure[data-state=done]")).to_have_count(5)
    seeds = [f"Seed {2**63 - 6 + number}" for number in (4, 3, 2, 1, 0)]
    expect(page.locator("figure .seed")).to_have_text(seeds)


def test_job_has_the_values_of_the_form(open_page: Callable[..., Page]) -> None:
    page = open_page()
    page.get_by_label("Style", exact=True).select_option("storybook")
    page.get_by_label("Sampler", exact=True).select_option("Euler a")
    page.get_by_label("Upscale", exact=True).check()
    page.get_by_label("Upscaling passes").select_option("1")
    values = {"Prompt": "a lake", "Negative prompt": "fog", "Size": "64x64", "Steps": "2", "Guidance scale": "2.5"}
    fill(page, values | {"Style level": "1"})
    with page.expect_request("**/v1/jobs") as posted:
        draw(page)
    assert posted.value.post_data_json == {
        "prompt": "a lake",
        "negative_prompt": "fog",
        "size": "64x64",
        "num_inference_steps": 2,
        "guidance_scale": 2.5,
        "scheduler": "Euler a",
        "style_lora": {"style": "storybook", "level": 1},
        "superres": True,
        "superres_magnitude": 1,
    }
    image = done(page).locator("img")
    assert image.evaluate("image => image.naturalWidth") > 64


def test_styles_are_shown_if_there_are_any(open_page: Callable[..., Page]) -> None:
    page = open_page()
    expect(page.get_by_label("Style", exact=True)).to_be_visible()
    page.route("**/loras", lambda route: route.fulfill(json=[]))
    page.reload()
    expect(page.get_by_label("Sampler", exact=True).get_by_role("option", name="Heun")).to_have_count(1)
    expect(page.get_by_label("Style", exact=True)).to_be_hidden()
    expect(page.get_by_label("Style level")).to_be_hidden()


def test_mode_can_be_chosen_if_there_are_several(open_page: Callable[..., Page], tmp_path: Path) -> None:
    page = open_page()
    expect(page.get_by_label("Sampler", exact=True).get_by_role("option", name="Heun")).to_have_count(1)
    expect(page.get_by_label("Mode", exact=True)).to_be_hidden()
    modes = """
[modes.small]
model = "demo"
default_size = "64x64"
[modes.wide]
model = "demo"
default_size = "128x64"
default_steps = 1
description = "Twice as wide"
"""
    (tmp_path / "imagegen.toml").write_text(modes)
    with serving(tmp_path) as address:
        page = open_page(address)
        chooser = page.get_by_label("Mode", exact=True)
        expect(chooser.get_by_role("option")).to_have_text(["small (the server's default)", "small", "wide"])
        expect(page.get_by_text("Twice as wide")).to_be_hidden()
        chooser.select_option("wide")
        expect(page.get_by_text("Twice as wide")).to_be_visible()
        fill(page, {"Prompt": "a lake"})
        draw(page)
        image = done(page).locator("img")
        assert image.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [128, 64]


def test_cancel_stops_the_picture(open_page: Callable[..., Page]) -> None:
    page = open_page()
    fill(page, {"Prompt": "a lake", "Size": "512x512", "Steps": "50"})
    draw(page)
    figure = page.locator("figure")
    expect(figure).to_contain_text(re.compile(r"step \d+ of 50"))
    figure.get_by_role("button", name="Cancel").click()
    expect(figure).to_contain_text("Cancelled")
    expect(figure).to_have_attribute("data-state", "cancelled")
    expect(figure.get_by_role("button", name="Cancel")).to_be_hidden()
    fill(page, {"Size": "64x64", "Steps": "1"})
    draw(page)
    expect(page.locator("figure[data-state=done]")).to_have_count(1)


def test_broken_connection_resumes_after_the_last_event(open_page: Callable[..., Page]) -> None:
    page = open_page()
    reconnections: list[Any] = []

    def respond(route: Any) -> None:
        if route.request.headers.get("last-event-id") is None:
            events = ': hello\r\n\r\nid: 1\r\nevent: queued\r\ndata: {"place": 3}\r\n\r\n'
            route.fulfill(content_type="text/event-stream", body=events)
        else:
            reconnections.append(route)

    page.route("**/events", respond)
    fill(page, {"Prompt": "a lake", "Size": "64x64", "Steps": "1"})
    with page.expect_request(lambda request: request.headers.get("last-event-id") == "1"):
        draw(page)
    expect(page.locator("figure")).to_contain_text("In line, place 3")
    reconnections[0].continue_()
    done(page)
