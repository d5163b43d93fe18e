"""Input pictures for the page, and pointers on its mask, for the page's tests."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tests.server.page.actions import HAS_PLAYWRIGHT, done, file

if HAS_PLAYWRIGHT:
    from playwright.sync_api import CDPSession, Locator, Page, expect

Pixels = npt.NDArray[np.uint8]


def noise(width: int, height: int) -> bytes:
    """Return a PNG of noise, which does not compress."""
    pixels = np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels))


def encoded(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()


def pixels(data: bytes) -> Pixels:
    with Image.open(BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def sent(request: dict[str, Any], name: str) -> bytes:
    """Return a picture of a posted request."""
    kind, _, encoded = request[name].partition(",")
    assert kind == "data:image/png;base64"
    return base64.b64decode(encoded)


def choose(page: Page, data: bytes) -> None:
    page.get_by_label("Choose a picture").set_input_files(file(data))
    expect(page.locator("#input-name")).to_contain_text("lake.png")


def post(page: Page) -> dict[str, Any]:
    """Press Draw; return the posted request."""
    with page.expect_request("**/v1/jobs") as posted:
        page.get_by_role("button", name="Draw", exact=True).click()
    return dict(posted.value.post_data_json or {})


def download(page: Page) -> bytes:
    """Return the newest picture once it is done."""
    with page.expect_download() as download:
        done(page).get_by_role("link", name="Download").click()
    return Path(download.value.path()).read_bytes()


def edit(page: Page) -> Locator:
    """Open the editor; return the picture in it."""
    page.get_by_role("button", name="Mask and sides").click()
    return page.locator("#layer")


def close(page: Page) -> None:
    page.get_by_role("button", name="Done").click()
    expect(page.get_by_role("dialog")).to_be_hidden()


class Pointer:
    """A mouse, a pen or a finger, as the operating system reports it."""

    def __init__(self, page: Page, kind: str) -> None:
        self._session: CDPSession = page.context.new_cdp_session(page)
        self._kind = kind

    def stroke(self, on: Locator, *places: tuple[float, float]) -> None:
        """Press at the first place, move to the others, and release; 0 to 1 of the element's width and height."""
        box = on.bounding_box()
        assert box is not None
        points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in places]
        self._send("Started", *points[0])
        for point in points[1:]:
            self._send("Moved", *point)
        self._send("Released", *points[-1])

    def _send(self, event: str, x: float, y: float) -> None:
        if self._kind == "touch":
            name = {"Started": "touchStart", "Moved": "touchMove", "Released": "touchEnd"}[event]
            touches = [] if event == "Released" else [{"x": x, "y": y}]
            self._session.send("Input.dispatchTouchEvent", {"type": name, "touchPoints": touches})
            return
        name = {"Started": "mousePressed", "Moved": "mouseMoved", "Released": "mouseReleased"}[event]
        button = {"button": "left", "buttons": int(event != "Released"), "clickCount": 1}
        self._session.send(
            "Input.dispatchMouseEvent", {"type": name, "x": x, "y": y, "pointerType": self._kind, **button}
        )
