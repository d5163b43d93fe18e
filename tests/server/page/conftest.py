"""A browser, and a server for the page."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imagegen_core import Settings, load_worker
from imagegen_core.worker import Worker
from tests.server.page.actions import HAS_PLAYWRIGHT
from tests.waiting import free_port, until_answered

_CHROMIUM = shutil.which("chromium")
_OWN_CONFIGURATION = re.compile("IMAGEGEN_|CUDA_|SDXL_|SD15_|MODEL|BACKEND|USE_SDXL|XDG_CONFIG_HOME")

if HAS_PLAYWRIGHT:
    from playwright.sync_api import Browser, Page, expect, sync_playwright

    expect.set_options(timeout=30_000)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the page's tests without a browser; in CI they fail instead."""
    if "CI" in os.environ or (_CHROMIUM and HAS_PLAYWRIGHT):
        return
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.skip(reason="the page is tested where chromium and playwright are installed"))


@pytest.fixture(scope="package")
def page_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with the demo model."""
    with serving(tmp_path_factory.mktemp("page")) as address:
        yield address


@pytest.fixture(scope="package")
def worker() -> Worker:
    """The server's model in this process, to draw the same requests in Python."""
    return load_worker(settings=Settings(model="demo", device="cpu", dtype="fp32"))


@pytest.fixture(scope="package")
def _browser() -> Iterator[Browser]:
    assert HAS_PLAYWRIGHT, "CI tests the page: pip install playwright"
    assert _CHROMIUM, "CI tests the page: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def complaints() -> list[str]:
    """The console messages that a test expects."""
    return []


@pytest.fixture
def open_page(_browser: Browser, page_server: str, complaints: list[str]) -> Iterator[Callable[..., Page]]:
    """Return a function that opens the page and waits until it is ready to draw.

    After the test, the console has only the expected messages, and no other host was requested.
    """
    messages: list[str] = []
    urls: list[str] = []
    opened: set[str] = set()

    def open_page(address: str = page_server, **options: Any) -> Page:
        page = _browser.new_context(**options).new_page()
        page.on(
            "console", lambda message: messages.append(message.text) if message.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: urls.append(request.url))
        opened.add(address)
        page.goto(address)
        expect(page.get_by_role("button", name="Draw", exact=True)).to_be_enabled()
        expect(page.get_by_label("Sampler", exact=True).locator("option", has_text="DPM++ 2M Karras")).to_have_count(1)
        return page

    yield open_page
    for context in _browser.contexts:
        context.close()
    assert messages == complaints
    own = (
        "data:image/png;base64,",
        *(f"{kind}{address}/" for address in opened | {page_server} for kind in ("", "blob:")),
    )
    assert f"{page_server}/page/app.js" in urls
    assert [url for url in urls if not url.startswith(own)] == []


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    port = free_port()
    clean = {name: value for name, value in os.environ.items() if not _OWN_CONFIGURATION.match(name)}
    added = {"CUDA_DTYPE": "fp32", "OMP_WAIT_POLICY": "PASSIVE", "XDG_CONFIG_HOME": str(folder / "no-config")}
    code = "from imagegen_core.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", "--model", "demo", "--port", str(port)]
    log = folder / "log"
    with log.open("wb") as stream:
        server = subprocess.Popen(command, env=clean | added, cwd=folder, stdout=stream, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        until_answered(server, log, f"{address}/ready")
        yield address
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0, log.read_text()
