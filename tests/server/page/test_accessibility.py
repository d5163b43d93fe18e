"""The page works with a keyboard, on a phone, and in both themes."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.server.page.actions import (
    HAS_PLAYWRIGHT,
    background,
    done,
    draw,
    fill,
    tab_until,
)

if HAS_PLAYWRIGHT:
    from playwright.sync_api import Page, expect


def test_page_works_with_the_keyboard_alone(open_page: Callable[..., Page]) -> None:
    page = open_page()
    expect(page.get_by_label("Prompt", exact=True)).to_be_focused()
    page.keyboard.type("a lake")
    names = tab_until(page, "Draw")
    assert names == ["Negative prompt", "Choose a picture", "Draw"]
    assert page.locator(":focus").evaluate("button => getComputedStyle(button).outlineStyle") == "solid"
    later_names = tab_until(page, "Load a PNG's recipe")
    assert later_names[1:-1] == [
        "Size",
        "Seed",
        "Steps",
        "Guidance scale",
        "Sampler",
        "Noise schedule",
        "Style",
        "Variation",
        "Noise of another size",
        "Second stage",
        "Count",
        "Upscale",
    ]
    fill(page, {"Size": "64x64", "Steps": "1"})

    page.get_by_label("Prompt", exact=True).focus()
    page.keyboard.press("Control+Enter")
    figure = done(page)
    figure.get_by_role("button", name="Enlarge").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(figure.get_by_role("button", name="Enlarge")).to_be_focused()


def test_every_control_has_a_name(open_page: Callable[..., Page]) -> None:
    page = open_page()
    fill(page, {"Prompt": "a lake", "Size": "64x64", "Steps": "1"})
    draw(page)
    done(page)
    controls = page.locator("main").locator("input, select, textarea, button, progress").filter(visible=True)
    assert controls.count() > 12
    for control in controls.all():
        expect(control).to_have_accessible_name(re.compile(r"\w"))


@pytest.mark.parametrize("unfolded", [False, True])
def test_page_fits_the_width_of_a_phone(open_page: Callable[..., Page], unfolded: bool) -> None:
    page = open_page(viewport={"width": 360, "height": 740})
    if not unfolded:
        expect(page.get_by_label("Size", exact=True)).to_be_hidden()
    page.get_by_text("Settings").click()
    fill(page, {"Prompt": "a lake " + "o" * 80, "Size": "64x64", "Steps": "1", "Seed": str(2**63 - 1)})
    draw(page)
    done(page).get_by_text("Recipe").click()
    if not unfolded:
        page.get_by_text("Settings").click()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    form, pictures = page.locator("#form").bounding_box(), page.locator("figure").bounding_box()
    assert form is not None
    assert pictures is not None
    assert form["y"] + form["height"] <= pictures["y"]


def test_chosen_theme_overrides_the_systems_and_is_remembered(open_page: Callable[..., Page]) -> None:
    backgrounds = {}
    for scheme in ("light", "dark"):
        page = open_page(color_scheme=scheme)
        backgrounds[scheme] = background(page)
    assert backgrounds["light"] != backgrounds["dark"]
    page.get_by_role("button", name="Light theme").click()
    assert background(page) == backgrounds["light"]
    page.reload()
    assert background(page) == backgrounds["light"]
    page.get_by_role("button", name="Dark theme").click()
    assert background(page) == backgrounds["dark"]


def test_documentation_requests_no_other_host(open_page: Callable[..., Page]) -> None:
    page = open_page()
    page.goto(f"{page.url}docs")
    page.locator("#operations-pictures-generate_generate_post").click()
    expect(page.get_by_text("a red circle on a blue background").first).to_be_visible()
