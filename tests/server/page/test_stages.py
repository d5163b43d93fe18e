"""The page's second stage and variations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from imagegen_core import HiresOptions, Variation, generate
from imagegen_core.worker import Worker
from tests.server.page.actions import HAS_PLAYWRIGHT, done, expect_form, file, fill
from tests.server.page.pictures import download, pixels, post

if HAS_PLAYWRIGHT:
    from playwright.sync_api import Page, Request, expect

_SMALL = {"Prompt": "a lake", "Size": "64x64", "Steps": "2", "Seed": "3"}


def test_second_stage_of_a_variation_is_drawn_as_in_python(open_page: Callable[..., Page], worker: Worker) -> None:
    page = open_page()
    fill(page, _SMALL | {"Variation": "0.3", "Variation seed": str(2**63 - 1)})
    page.get_by_label("Second stage").select_option("1.5 times as large")
    fill(page, {"Stage strength": "0.5"})
    post(page)
    picture = download(page)
    hires, variation = HiresOptions(scale=1.5, strength=0.5), Variation(seed=2**63 - 1, strength=0.3)
    expected = generate(
        "a lake", size="64x64", num_inference_steps=2, seed=3, hires=hires, variation=variation, worker=worker
    )
    assert pixels(picture).shape == (96, 96, 3)
    assert (pixels(picture) == np.asarray(expected.image)).all()

    page.reload()
    page.get_by_label("Load a PNG's recipe").set_input_files(file(picture))
    expect_form(
        page, {"Second stage": "1.5", "Stage strength": "0.5", "Variation": "0.3", "Variation seed": str(2**63 - 1)}
    )


def test_vary_draws_around_a_picture(open_page: Callable[..., Page]) -> None:
    page = open_page()
    fill(page, _SMALL | {"Seed": str(2**60)})
    post(page)
    figure = done(page)
    fill(page, {"Prompt": "another", "Seed": ""})
    figure.get_by_role("button", name="Vary").click()
    expect_form(page, {"Prompt": "a lake", "Seed": str(2**60), "Variation": "0.2", "Variation seed": ""})
    expect(page.get_by_role("button", name="Draw", exact=True)).to_be_focused()
    fill(page, {"Count": "2"})
    posted: list[Request] = []
    page.on("request", lambda request: posted.append(request) if request.method == "POST" else None)
    page.keyboard.press("Control+Enter")
    expect(page.locator("figure[data-state=done]")).to_have_count(3)
    requests = [dict(request.post_data_json or {}) for request in posted]
    assert [request["seed"] for request in requests] == [2**60, 2**60]
    seeds = [request["variation"]["seed"] for request in requests]
    assert seeds[1] == seeds[0] + 1
    assert {request["variation"]["strength"] for request in requests} == {0.2}


def test_recipe_with_unknown_options_is_told(open_page: Callable[..., Page], worker: Worker) -> None:
    page = open_page()
    hires, variation = HiresOptions(size="96x64", steps=3), Variation(strength=0.5, resize_from="32x32")
    picture = generate("a lake", size="64x64", num_inference_steps=1, hires=hires, variation=variation, worker=worker)
    page.get_by_label("Load a PNG's recipe").set_input_files(file(picture.png))
    expect(page.get_by_text('It was drawn with hires {"size":"96x64","steps":3}')).to_be_visible()
    expect(page.get_by_text('It was drawn with variation {"resize_from":"32x32"}')).to_be_visible()
    expect_form(page, {"Second stage": "", "Variation": "0.5", "Variation seed": "0"})
