"""The page's second stage and variations."""

from __future__ import annotations

from collections.abc import Callable

import httpx2 as httpx
import numpy as np

from imagegen_core import HiresOptions, Variation, generate
from imagegen_core.request.hires import LATENT_MODES
from imagegen_core.worker import Worker
from tests.server.page.actions import HAS_PLAYWRIGHT, done, expect_form, file, fill
from tests.server.page.pictures import download, pixels, post

if HAS_PLAYWRIGHT:
    from playwright.sync_api import Page, Request, expect

_SMALL = {"Prompt": "a lake", "Size": "64x64", "Steps": "2", "Seed": "3"}


def test_second_stage_of_a_variation_is_drawn_as_in_python(open_page: Callable[..., Page], worker: Worker) -> None:
    page = open_page()
    fill(page, _SMALL | {"Variation": "0.3", "Variation seed": str(2**63 - 1)})
    expect(page.get_by_label("Stage strength")).to_be_hidden()
    fill(page, {"Second stage": "1.5"})
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


def test_every_option_of_the_second_stage_is_drawn_as_in_python(open_page: Callable[..., Page], worker: Worker) -> None:
    page = open_page()
    fill(page, _SMALL | {"Second stage": "96x64", "Noise of another size": "32x32"})
    fill(page, {"Stage strength": "0.6", "Stage steps": "3", "Stage prompt": "a red circle"})
    page.get_by_label("Stage upscaler").select_option("lanczos")
    page.get_by_label("Stage sampler").select_option("Euler")
    page.get_by_label("Stage noise schedule").select_option("Karras")
    page.get_by_label("Noise anew from the seed").check()
    request = post(page)
    hires = {
        "size": "96x64",
        "strength": 0.6,
        "steps": 3,
        "upscaler": "lanczos",
        "scheduler": "Euler",
        "schedule": "Karras",
        "prompt": "a red circle",
        "fresh_noise": True,
    }
    assert (request["hires"], request["variation"]) == (hires, {"resize_from": "32x32"})
    picture = download(page)
    fields = {"hires": HiresOptions(**hires), "variation": Variation(resize_from="32x32")}
    expected = generate("a lake", size="64x64", num_inference_steps=2, seed=3, worker=worker, **fields)
    assert (pixels(picture) == np.asarray(expected.image)).all()

    page.reload()
    page.get_by_label("Load a PNG's recipe").set_input_files(file(picture))
    expect_form(page, {"Second stage": "96x64", "Stage steps": "3", "Stage upscaler": "lanczos"})
    again = post(page)
    assert (again["hires"], again["variation"]) == (hires, {"resize_from": "32x32"})


def test_upscalers_are_those_of_the_server(open_page: Callable[..., Page], page_server: str) -> None:
    page = open_page()
    fill(page, {"Second stage": "2"})
    offered = page.get_by_label("Stage upscaler").get_by_role("option")
    listed = httpx.get(f"{page_server}/sdapi/v1/upscalers").json()
    names = [upscaler["name"] for upscaler in listed if upscaler["name"] != "None"]
    assert "lanczos" in names
    expect(offered).to_have_text([*LATENT_MODES, *names])


def test_wrong_option_of_the_second_stage_marks_its_field(
    open_page: Callable[..., Page], complaints: list[str]
) -> None:
    complaints.extend(["Failed to load resource: the server responded with a status of 422 (Unprocessable Entity)"] * 2)
    page = open_page()
    fill(page, _SMALL | {"Second stage": "twice"})
    post(page)
    expect(page.get_by_role("alert")).to_contain_text("Invalid hires.size 'twice': expected WIDTHxHEIGHT")
    expect(page.get_by_label("Second stage")).to_have_attribute("aria-invalid", "true")
    fill(page, {"Second stage": "1.5", "Stage steps": "2000"})
    post(page)
    expect(page.get_by_label("Stage steps")).to_have_attribute("aria-invalid", "true")
