"""Actions on the page, and functions that read the page's state, for the page's tests."""

from __future__ import annotations

import base64
import importlib.util
import json
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

HAS_PLAYWRIGHT = importlib.util.find_spec("playwright") is not None

if HAS_PLAYWRIGHT:
    from playwright.sync_api import Page, expect


def fill(page: Page, values: dict[str, str]) -> None:
    for label, value in values.items():
        page.get_by_label(label, exact=True).fill(value)


def draw(page: Page) -> None:
    page.get_by_role("button", name="Draw", exact=True).click()


def done(page: Page) -> Any:
    """Return the newest picture once it is done."""
    figure = page.locator("figure").first
    expect(figure).to_have_attribute("data-state", "done")
    return figure


def expect_form(page: Page, values: dict[str, str]) -> None:
    for label, value in values.items():
        expect(page.get_by_label(label, exact=True)).to_have_value(value)


def tab_until(page: Page, name: str) -> list[str]:
    """Press Tab until the control of this name has the focus; return the names on the way."""
    names: list[str] = []
    while name not in names:
        assert len(names) < 30, names
        page.keyboard.press("Tab")
        names.append(page.evaluate("(document.activeElement.labels?.[0] ?? document.activeElement).textContent.trim()"))
    return names


def drop(page: Page, data: bytes, zone: str) -> None:
    """Drag a file over the page, and drop it on the zone with this text."""
    transfer = page.evaluate_handle(
        """(text) => {
            const bytes = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], "lake.png", { type: "image/png" }));
            return transfer;
        }""",
        base64.b64encode(data).decode(),
    )
    page.dispatch_event("body", "dragover", {"dataTransfer": transfer})
    page.get_by_text(zone).dispatch_event("drop", {"dataTransfer": transfer})
    expect(page.get_by_text(zone)).to_be_hidden()


def file(data: bytes) -> Any:
    return {"name": "lake.png", "mimeType": "image/png", "buffer": data}


def png(method: str, keyword: str, text: str) -> bytes:
    info, buffer = PngInfo(), BytesIO()
    getattr(info, method)(keyword, text)
    Image.new("RGB", (8, 8)).save(buffer, "png", pnginfo=info)
    return buffer.getvalue()


def recipe(path: Path) -> dict[str, Any]:
    with Image.open(path) as picture:
        recipe: dict[str, Any] = json.loads(picture.info["imagegen"])
    return recipe


def background(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))
