"""The page shows the server's refusals and errors."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from tests.server.page.actions import (
    HAS_PLAYWRIGHT,
    done,
    draw,
    fill,
)

if HAS_PLAYWRIGHT:
    from playwright.sync_api import Page, Request, expect

_KEY = "a-key-for-the-page"


def test_failed_job_shows_the_reason(open_page: Callable[..., Page]) -> None:
    page = open_page()
    fill(page, {"Prompt": "BREAK " * 70, "Size": "64x64", "Steps": "2"})
    draw(page)
    reason = re.compile("Invalid prompt of 7[0-9] chunks of up to 75 tokens: expected at most 64")
    expect(page.locator("figure[data-state=failed]")).to_contain_text(reason)
    expect(page.get_by_role("alert")).to_have_text(reason)
    expect(page.get_by_role("button", name="Cancel")).to_be_hidden()


def test_too_many_steps_mark_their_field(open_page: Callable[..., Page], complaints: list[str]) -> None:
    complaints.append("Failed to load resource: the server responded with a status of 422 (Unprocessable Entity)")
    page = open_page()
    fill(page, {"Prompt": "a lake", "Size": "64x64", "Steps": "60"})
    page.get_by_label("Sampler", exact=True).select_option("LCM")
    draw(page)
    reason = "Invalid num_inference_steps 60: the LCM scheduler takes 1 to 50"
    expect(page.get_by_role("alert")).to_have_text(reason)
    expect(page.get_by_label("Steps", exact=True)).to_have_attribute("aria-invalid", "true")


def test_wrong_size_marks_its_field(open_page: Callable[..., Page], complaints: list[str]) -> None:
    complaints.append("Failed to load resource: the server responded with a status of 422 (Unprocessable Entity)")
    page = open_page()
    size = page.get_by_label("Size", exact=True)
    fill(page, {"Prompt": "a lake", "Size": "100x100"})
    draw(page)
    expect(page.get_by_role("alert")).to_contain_text("Invalid size '100x100': expected WIDTHxHEIGHT")
    expect(size).to_have_attribute("aria-invalid", "true")
    expect(size).to_be_focused()
    expect(page.locator("figure")).to_have_count(0)
    size.fill("64x64")
    expect(size).not_to_have_attribute("aria-invalid", "true")
    draw(page)
    done(page)
    expect(page.get_by_role("alert")).to_be_empty()


def test_page_shows_why_the_server_is_not_ready(open_page: Callable[..., Page], complaints: list[str]) -> None:
    page = open_page()
    responses = iter(
        [(503, "loading", ""), (503, "failed", "There is no model 'lake': name another"), (200, "ready", "")]
    )

    def respond(route: Any) -> None:
        status, word, detail = next(responses)
        route.fulfill(status=status, json={"status": word, "detail": detail})

    complaints.extend(["Failed to load resource: the server responded with a status of 503 (Service Unavailable)"] * 2)
    page.route("**/ready", respond)
    page.reload()
    draw = page.get_by_role("button", name="Draw", exact=True)
    state = page.locator("#server-state")
    expect(state).to_have_text("The model is being loaded")
    expect(draw).to_be_disabled()
    expect(state).to_have_text("The model could not be loaded: There is no model 'lake': name another")
    expect(draw).to_be_disabled()
    expect(draw).to_be_enabled()
    expect(state).to_be_hidden()


def test_page_asks_for_an_api_key_and_keeps_it(open_page: Callable[..., Page], complaints: list[str]) -> None:
    page = open_page()
    wrong, right = "Bearer wrong", f"Bearer {_KEY}"
    refused: list[str | None] = []

    def guard(route: Any, request: Request) -> None:
        authorization = request.headers.get("authorization")
        if authorization == right:
            route.fallback()
            return
        refused.append(authorization)
        reason = "This server wants an API key" if authorization is None else "This API key is not known here"
        route.fulfill(status=401, json={"detail": reason, "type": "unauthorized", "field": None})

    page.route(re.compile("/(sdapi|v1)/"), guard)
    page.reload()
    key = page.get_by_label("API key of this server")
    expect(page.get_by_role("alert")).to_have_text("This server wants an API key")
    expect(key).to_be_focused()
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("This API key is not known here")
    expect(key).to_be_focused()
    page.keyboard.type(_KEY)
    page.keyboard.press("Enter")
    expect(key).to_be_hidden()
    expect(page.get_by_label("Sampler", exact=True).locator("option", has_text="Euler a")).to_have_count(1)
    page.reload()
    expect(page.get_by_label("Sampler", exact=True).locator("option", has_text="Euler a")).to_have_count(1)
    fill(page, {"Prompt": "a lake", "Size": "64x64", "Steps": "1"})
    draw(page)
    done(page)
    assert refused == [None] * 6 + [wrong] * 6
    complaints.extend(
        ["Failed to load resource: the server responded with a status of 401 (Unauthorized)"] * len(refused)
    )
