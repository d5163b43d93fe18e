"""The page, in a browser, on a server of its own."""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

_CHROMIUM = shutil.which("chromium")
_HAS_PLAYWRIGHT = importlib.util.find_spec("playwright") is not None

pytestmark = pytest.mark.skipif(
    "CI" not in os.environ and not (_CHROMIUM and _HAS_PLAYWRIGHT),
    reason="the page is tested where chromium and playwright are installed",
)

_START_S = 90
_KEY = "a-key-for-the-page"
_OWN_CONFIGURATION = re.compile("IMAGEGEN_|CUDA_|SDXL_|SD15_|MODEL|BACKEND|USE_SDXL|XDG_CONFIG_HOME")

if _HAS_PLAYWRIGHT:
    from playwright.sync_api import Browser, Page, Request, expect, sync_playwright

    expect.set_options(timeout=30_000)


@pytest.fixture(scope="module")
def page_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server's address; the demo model draws there."""
    with _serving(tmp_path_factory.mktemp("page")) as address:
        yield address


@pytest.fixture(scope="module")
def _browser() -> Iterator[Browser]:
    assert _HAS_PLAYWRIGHT, "CI tests the page: pip install playwright"
    assert _CHROMIUM, "CI tests the page: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def complaints() -> list[str]:
    """What the page may complain of in the console, as a test expects it."""
    return []


@pytest.fixture
def open_page(_browser: Browser, page_server: str, complaints: list[str]) -> Iterator[Callable[..., Page]]:
    """Opens the page, ready to draw; none may complain in its console, or ask another host for anything."""
    heard: list[str] = []
    asked: list[str] = []
    opened: set[str] = set()

    def open_page(address: str = page_server, **options: Any) -> Page:
        page = _browser.new_context(**options).new_page()
        page.on("console", lambda message: heard.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        opened.add(address)
        page.goto(address)
        expect(page.get_by_role("button", name="Draw", exact=True)).to_be_enabled()
        expect(page.get_by_label("Sampler").locator("option", has_text="DPM++ 2M Karras")).to_have_count(1)
        return page

    yield open_page
    for context in _browser.contexts:
        context.close()
    assert heard == complaints
    own = ("data:image/png;base64,", *(f"{kind}{one}/" for one in opened | {page_server} for kind in ("", "blob:")))
    assert f"{page_server}/page/app.js" in asked
    assert [url for url in asked if not url.startswith(own)] == []


def test_it_draws_a_picture_and_shows_it_with_its_seed(open_page: Callable[..., Page]) -> None:
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
    _fill(page, {"Prompt": "a red circle on a blue background", "Seed": "7", "Size": "128x64", "Steps": "6"})
    _draw(page)
    figure = _done(page)
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
    assert _recipe(Path(download.value.path()))["seed"] == 7


def test_seeds_count_up_and_newer_pictures_come_first(open_page: Callable[..., Page]) -> None:
    page = open_page()
    _fill(page, {"Prompt": "a lake", "Seed": str(2**63 - 6), "Size": "64x64", "Steps": "1", "Count": "5"})
    _draw(page)
    expect(page.locator("figure[data-state=done]")).to_have_count(5)
    told = [f"Seed {2**63 - 6 + number}" for number in (4, 3, 2, 1, 0)]
    expect(page.locator("figure .seed")).to_have_text(told)


def test_what_the_form_says_is_drawn(open_page: Callable[..., Page]) -> None:
    page = open_page()
    page.get_by_label("Style", exact=True).select_option("storybook")
    page.get_by_label("Sampler").select_option("Euler a")
    page.get_by_label("Upscale", exact=True).check()
    page.get_by_label("Upscaling passes").select_option("1")
    given = {"Prompt": "a lake", "Negative prompt": "fog", "Size": "64x64", "Steps": "2", "Guidance scale": "2.5"}
    _fill(page, given | {"Style level": "1"})
    with page.expect_request("**/v1/jobs") as posted:
        _draw(page)
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
    image = _done(page).locator("img")
    assert image.evaluate("image => image.naturalWidth") > 64


def test_styles_are_shown_where_there_are_any(open_page: Callable[..., Page]) -> None:
    page = open_page()
    expect(page.get_by_label("Style", exact=True)).to_be_visible()
    page.route("**/loras", lambda route: route.fulfill(json=[]))
    page.reload()
    expect(page.get_by_label("Sampler").get_by_role("option", name="Heun")).to_have_count(1)
    expect(page.get_by_label("Style", exact=True)).to_be_hidden()
    expect(page.get_by_label("Style level")).to_be_hidden()


def test_a_mode_is_chosen_where_there_are_several(open_page: Callable[..., Page], tmp_path: Path) -> None:
    page = open_page()
    expect(page.get_by_label("Sampler").get_by_role("option", name="Heun")).to_have_count(1)
    expect(page.get_by_label("Mode")).to_be_hidden()
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
    with _serving(tmp_path) as address:
        page = open_page(address)
        chooser = page.get_by_label("Mode")
        expect(chooser.get_by_role("option")).to_have_text(["small (the server's default)", "small", "wide"])
        expect(page.get_by_text("Twice as wide")).to_be_hidden()
        chooser.select_option("wide")
        expect(page.get_by_text("Twice as wide")).to_be_visible()
        _fill(page, {"Prompt": "a lake"})
        _draw(page)
        image = _done(page).locator("img")
        assert image.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [128, 64]


def test_cancel_gives_a_picture_up(open_page: Callable[..., Page]) -> None:
    page = open_page()
    _fill(page, {"Prompt": "a lake", "Size": "512x512", "Steps": "50"})
    _draw(page)
    figure = page.locator("figure")
    expect(figure).to_contain_text(re.compile(r"step \d+ of 50"))
    figure.get_by_role("button", name="Cancel").click()
    expect(figure).to_contain_text("Cancelled")
    expect(figure).to_have_attribute("data-state", "cancelled")
    expect(figure.get_by_role("button", name="Cancel")).to_be_hidden()
    _fill(page, {"Size": "64x64", "Steps": "1"})
    _draw(page)
    expect(page.locator("figure[data-state=done]")).to_have_count(1)


def test_a_connection_that_breaks_is_taken_up_where_it_broke(open_page: Callable[..., Page]) -> None:
    page = open_page()
    held: list[Any] = []

    def answer(route: Any) -> None:
        if route.request.headers.get("last-event-id") is None:
            said = ': hello\r\n\r\nid: 1\r\nevent: queued\r\ndata: {"place": 3}\r\n\r\n'
            route.fulfill(content_type="text/event-stream", body=said)
        else:
            held.append(route)

    page.route("**/events", answer)
    _fill(page, {"Prompt": "a lake", "Size": "64x64", "Steps": "1"})
    with page.expect_request(lambda request: request.headers.get("last-event-id") == "1"):
        _draw(page)
    expect(page.locator("figure")).to_contain_text("In line, place 3")
    held[0].continue_()
    _done(page)


def test_a_job_that_fails_says_why(open_page: Callable[..., Page]) -> None:
    page = open_page()
    _fill(page, {"Prompt": "BREAK " * 70, "Size": "64x64", "Steps": "2"})
    _draw(page)
    said = re.compile("Invalid prompt of 7[0-9] chunks of up to 75 tokens: expected at most 64")
    expect(page.locator("figure[data-state=failed]")).to_contain_text(said)
    expect(page.get_by_role("alert")).to_have_text(said)
    expect(page.get_by_role("button", name="Cancel")).to_be_hidden()


def test_too_many_steps_are_told_at_their_field(open_page: Callable[..., Page], complaints: list[str]) -> None:
    complaints.append("Failed to load resource: the server responded with a status of 422 (Unprocessable Entity)")
    page = open_page()
    _fill(page, {"Prompt": "a lake", "Size": "64x64", "Steps": "60"})
    page.get_by_label("Sampler").select_option("LCM")
    _draw(page)
    said = "Invalid num_inference_steps 60: the LCM scheduler takes 1 to 50"
    expect(page.get_by_role("alert")).to_have_text(said)
    expect(page.get_by_label("Steps")).to_have_attribute("aria-invalid", "true")


def test_a_wrong_size_is_told_at_its_field(open_page: Callable[..., Page], complaints: list[str]) -> None:
    complaints.append("Failed to load resource: the server responded with a status of 422 (Unprocessable Entity)")
    page = open_page()
    size = page.get_by_label("Size")
    _fill(page, {"Prompt": "a lake", "Size": "100x100"})
    _draw(page)
    expect(page.get_by_role("alert")).to_contain_text("Invalid size '100x100': expected WIDTHxHEIGHT")
    expect(size).to_have_attribute("aria-invalid", "true")
    expect(size).to_be_focused()
    expect(page.locator("figure")).to_have_count(0)
    size.fill("64x64")
    expect(size).not_to_have_attribute("aria-invalid", "true")
    _draw(page)
    _done(page)
    expect(page.get_by_role("alert")).to_be_empty()


def test_a_picture_that_was_drawn_brings_its_recipe_along(open_page: Callable[..., Page]) -> None:
    page = open_page()
    _fill(page, {"Prompt": "a lake: dawn, “mist”", "Seed": str(2**63 - 1), "Size": "64x128", "Steps": "3"})
    page.get_by_label("Sampler").select_option("Euler a")
    _draw(page)
    with page.expect_download() as download:
        _done(page).get_by_role("link", name="Download").click()
    drawn = Path(download.value.path()).read_bytes()
    expected = {"Prompt": "a lake: dawn, “mist”", "Seed": str(2**63 - 1), "Size": "64x128", "Steps": "3"}

    page.reload()
    page.get_by_label("Load a PNG's recipe").set_input_files(_file(drawn))
    _expect_form(page, expected | {"Sampler": "Euler a"})

    page.reload()
    expect(page.get_by_label("Sampler").get_by_role("option", name="Euler a")).to_have_count(1)
    _drop(page, drawn)
    _expect_form(page, expected | {"Sampler": "Euler a"})
    expect(page.get_by_text("The form has the recipe of lake.png.")).to_be_visible()


def test_reuse_fills_the_form_and_remove_removes(open_page: Callable[..., Page]) -> None:
    page = open_page()
    _fill(page, {"Prompt": "a lake", "Size": "64x64", "Steps": "1"})
    _draw(page)
    figure = _done(page)
    seed = figure.locator(".seed").inner_text().removeprefix("Seed ")
    _fill(page, {"Prompt": "another", "Size": ""})
    figure.get_by_role("button", name="Reuse").click()
    _expect_form(page, {"Prompt": "a lake", "Size": "64x64", "Seed": seed})
    figure.get_by_role("button", name="Remove").click()
    expect(figure).to_have_count(0)
    expect(page.get_by_text("Nothing drawn yet")).to_be_visible()


def test_a1111s_text_is_read_where_there_is_no_recipe_of_ours(open_page: Callable[..., Page]) -> None:
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
    for write in ("add_text", "add_itxt"):
        page.get_by_label("Load a PNG's recipe").set_input_files(_file(_png(write, "parameters", text)))
        _expect_form(page, expected)
        page.reload()


def test_a_file_without_a_recipe_says_so(open_page: Callable[..., Page]) -> None:
    page = open_page()
    page.get_by_label("Load a PNG's recipe").set_input_files(_file(_png("add_text", "Comment", "none")))
    expect(page.get_by_role("alert")).to_contain_text("There is no recipe in lake.png")
    page.get_by_label("Load a PNG's recipe").set_input_files(_file(b"no picture at all"))
    expect(page.get_by_role("alert")).to_contain_text("lake.png is no PNG")


def test_the_keyboard_is_enough(open_page: Callable[..., Page]) -> None:
    page = open_page()
    expect(page.get_by_label("Prompt", exact=True)).to_be_focused()
    page.keyboard.type("a lake")
    reached = _tab_until(page, "Draw")
    assert reached == ["Negative prompt", "Draw"]
    assert page.locator(":focus").evaluate("button => getComputedStyle(button).outlineStyle") == "solid"
    rest = _tab_until(page, "Load a PNG's recipe")
    assert rest[1:-1] == [
        "Size",
        "Seed",
        "Steps",
        "Guidance scale",
        "Sampler",
        "Noise schedule",
        "Style",
        "Count",
        "Upscale",
    ]
    _fill(page, {"Size": "64x64", "Steps": "1"})

    page.get_by_label("Prompt", exact=True).focus()
    page.keyboard.press("Control+Enter")
    figure = _done(page)
    figure.get_by_role("button", name="Enlarge").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(figure.get_by_role("button", name="Enlarge")).to_be_focused()


def test_every_control_has_a_name(open_page: Callable[..., Page]) -> None:
    page = open_page()
    _fill(page, {"Prompt": "a lake", "Size": "64x64", "Steps": "1"})
    _draw(page)
    _done(page)
    controls = page.locator("main").locator("input, select, textarea, button, progress").filter(visible=True)
    assert controls.count() > 12
    for control in controls.all():
        expect(control).to_have_accessible_name(re.compile(r"\w"))


@pytest.mark.parametrize("unfolded", [False, True])
def test_a_phone_does_not_scroll_sideways(open_page: Callable[..., Page], unfolded: bool) -> None:
    page = open_page(viewport={"width": 360, "height": 740})
    if not unfolded:
        expect(page.get_by_label("Size")).to_be_hidden()
    page.get_by_text("Settings").click()
    _fill(page, {"Prompt": "a lake " + "o" * 80, "Size": "64x64", "Steps": "1", "Seed": str(2**63 - 1)})
    _draw(page)
    _done(page).get_by_text("Recipe").click()
    if not unfolded:
        page.get_by_text("Settings").click()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    form, pictures = page.locator("#form").bounding_box(), page.locator("figure").bounding_box()
    assert form is not None
    assert pictures is not None
    assert form["y"] + form["height"] <= pictures["y"]


def test_the_theme_is_the_systems_until_it_is_chosen_and_then_remembered(open_page: Callable[..., Page]) -> None:
    grounds = {}
    for scheme in ("light", "dark"):
        page = open_page(color_scheme=scheme)
        grounds[scheme] = _ground(page)
    assert grounds["light"] != grounds["dark"]
    page.get_by_role("button", name="Light theme").click()
    assert _ground(page) == grounds["light"]
    page.reload()
    assert _ground(page) == grounds["light"]
    page.get_by_role("button", name="Dark theme").click()
    assert _ground(page) == grounds["dark"]


def test_the_documentation_asks_no_other_host(open_page: Callable[..., Page]) -> None:
    page = open_page()
    page.goto(f"{page.url}docs")
    page.locator("#operations-pictures-generate_generate_post").click()
    expect(page.get_by_text("a red circle on a blue background").first).to_be_visible()


def test_while_the_server_is_not_ready_the_page_says_why(open_page: Callable[..., Page], complaints: list[str]) -> None:
    page = open_page()
    answers = iter(
        [(503, "loading", ""), (503, "failed", "There is no model 'lake': name another"), (200, "ready", "")]
    )

    def answer(route: Any) -> None:
        status, word, detail = next(answers)
        route.fulfill(status=status, json={"status": word, "detail": detail})

    complaints.extend(["Failed to load resource: the server responded with a status of 503 (Service Unavailable)"] * 2)
    page.route("**/ready", answer)
    page.reload()
    draw = page.get_by_role("button", name="Draw", exact=True)
    state = page.locator("#server-state")
    expect(state).to_have_text("The model is being loaded")
    expect(draw).to_be_disabled()
    expect(state).to_have_text("The model could not be loaded: There is no model 'lake': name another")
    expect(draw).to_be_disabled()
    expect(draw).to_be_enabled()
    expect(state).to_be_hidden()


def test_a_server_with_keys_is_given_one(open_page: Callable[..., Page], complaints: list[str]) -> None:
    page = open_page()
    wrong, right = "Bearer wrong", f"Bearer {_KEY}"
    refused: list[str | None] = []

    def guard(route: Any, request: Request) -> None:
        shown = request.headers.get("authorization")
        if shown == right:
            route.fallback()
            return
        refused.append(shown)
        said = "This server wants an API key" if shown is None else "This API key is not known here"
        route.fulfill(status=401, json={"detail": said, "type": "unauthorized", "field": None})

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
    expect(page.get_by_label("Sampler").locator("option", has_text="Euler a")).to_have_count(1)
    page.reload()
    expect(page.get_by_label("Sampler").locator("option", has_text="Euler a")).to_have_count(1)
    _fill(page, {"Prompt": "a lake", "Size": "64x64", "Steps": "1"})
    _draw(page)
    _done(page)
    assert refused == [None] * 3 + [wrong] * 3
    complaints.extend(
        ["Failed to load resource: the server responded with a status of 401 (Unauthorized)"] * len(refused)
    )


@contextlib.contextmanager
def _serving(folder: Path) -> Iterator[str]:
    port = _free_port()
    clean = {name: value for name, value in os.environ.items() if not _OWN_CONFIGURATION.match(name)}
    added = {"CUDA_DTYPE": "fp32", "OMP_WAIT_POLICY": "PASSIVE", "XDG_CONFIG_HOME": str(folder / "no-config")}
    code = "from imagegen_core.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", "--model", "demo", "--port", str(port)]
    log = folder / "log"
    with log.open("wb") as stream:
        server = subprocess.Popen(command, env=clean | added, cwd=folder, stdout=stream, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(address, server, log)
        yield address
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0, log.read_text()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _START_S
    while not _is_ready(address):
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)


def _is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/ready") as response:
            return bool(response.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except OSError:
        return False


def _fill(page: Page, values: dict[str, str]) -> None:
    for label, value in values.items():
        page.get_by_label(label, exact=True).fill(value)


def _draw(page: Page) -> None:
    page.get_by_role("button", name="Draw", exact=True).click()


def _done(page: Page) -> Any:
    """The newest picture, once it is there."""
    figure = page.locator("figure").first
    expect(figure).to_have_attribute("data-state", "done")
    return figure


def _expect_form(page: Page, values: dict[str, str]) -> None:
    for label, value in values.items():
        expect(page.get_by_label(label, exact=True)).to_have_value(value)


def _tab_until(page: Page, name: str) -> list[str]:
    """Press Tab until the control of that name has the focus; the names on the way."""
    names: list[str] = []
    while name not in names:
        assert len(names) < 30, names
        page.keyboard.press("Tab")
        names.append(page.evaluate("(document.activeElement.labels?.[0] ?? document.activeElement).textContent.trim()"))
    return names


def _drop(page: Page, data: bytes) -> None:
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
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})


def _file(data: bytes) -> Any:
    return {"name": "lake.png", "mimeType": "image/png", "buffer": data}


def _png(write: str, keyword: str, text: str) -> bytes:
    chunks, written = PngInfo(), BytesIO()
    getattr(chunks, write)(keyword, text)
    Image.new("RGB", (8, 8)).save(written, "png", pnginfo=chunks)
    return written.getvalue()


def _recipe(path: Path) -> dict[str, Any]:
    with Image.open(path) as picture:
        recipe: dict[str, Any] = json.loads(picture.info["imagegen"])
    return recipe


def _ground(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))
