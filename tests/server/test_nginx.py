"""The server behind a real nginx, with the configuration of docs/proxy.md."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.server.processes import Process, serving
from tests.waiting import LIMIT, free_port, until, until_answered

_NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
_CHROMIUM = shutil.which("chromium")
_HAS_PLAYWRIGHT = importlib.util.find_spec("playwright") is not None
_CONFIGURATION = Path(__file__).parents[2] / "examples" / "proxy" / "nginx.conf"
_KEY = "a-long-random-key"
_PROXY_PASS = "proxy_pass http://127.0.0.1:4200/;"

pytestmark = pytest.mark.skipif(
    "CI" not in os.environ and not _NGINX, reason="needs nginx: apt-get install nginx-light"
)

_MAIN = """
daemon off;
{user}
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""


@dataclass
class Proxied:
    """A server, and a client of the proxy in front of it."""

    url: str
    http: httpx.Client
    server: Process


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, sdxl_checkpoint: Path) -> Iterator[Process]:
    environ = {
        "IMAGEGEN_ALLOWED_HOSTS": "pictures.example.org",
        "IMAGEGEN_API_KEYS": _KEY,
        "IMAGEGEN_ROOT_PATH": "/ai",
        "IMAGEGEN_TRUSTED_PROXIES": "127.0.0.1",
    }
    with serving(tmp_path_factory.mktemp("proxied"), sdxl_checkpoint, **environ) as running:
        running.until_ready()
        yield running


@pytest.fixture(scope="module", params=[_PROXY_PASS, _PROXY_PASS.replace("/;", ";")], ids=["stripped", "left in place"])
def proxied(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, server: Process
) -> Iterator[Proxied]:
    assert _NGINX, "CI tests the proxy: apt-get install nginx-light"
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    _make_certificate(folder)
    site = _CONFIGURATION.read_text()
    for original, replacement in {
        _PROXY_PASS: request.param,
        "127.0.0.1:4200": f"127.0.0.1:{server.http.base_url.port}",
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "server_name pictures.example.org": "server_name localhost",
        "/etc/ssl/certs/pictures.example.org.pem": str(folder / "certificate.pem"),
        "/etc/ssl/private/pictures.example.org.key": str(folder / "key.pem"),
    }.items():
        assert original in site
        site = site.replace(original, replacement)
    (folder / "site.conf").write_text(site)
    (folder / "nginx.conf").write_text(_MAIN.format(folder=folder, user="user root;" if os.geteuid() == 0 else ""))
    nginx = subprocess.Popen([_NGINX, "-e", folder / "error.log", "-p", folder, "-c", folder / "nginx.conf"])
    url, trusted = f"https://localhost:{port}", ssl.create_default_context(cafile=folder / "certificate.pem")
    try:
        until_answered(nginx, folder / "error.log", f"{url}/ai/ready", verify=trusted)
        with httpx.Client(base_url=url, verify=trusted, timeout=LIMIT) as http:
            http.headers["Authorization"] = f"Bearer {_KEY}"
            yield Proxied(url, http, server)
    finally:
        nginx.terminate()
        nginx.wait()


def _make_certificate(folder: Path) -> None:
    new = ("openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    name = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    files = ("-keyout", folder / "key.pem", "-out", folder / "certificate.pem")
    subprocess.run([*new, *name, *files], check=True, capture_output=True)


def test_every_link_leads_back_through_the_proxy(proxied: Proxied) -> None:
    http = proxied.http
    posted = http.post("/ai/v1/jobs", json={"prompt": "a star", "size": "64x64"})
    assert posted.headers["Location"].startswith("/ai/v1/jobs/")
    assert '"image": "/ai/v1/jobs/' in http.get(posted.json()["events"]).text
    finished_job = http.get(posted.headers["Location"]).json()
    assert http.get(finished_job["image"]).headers["Content-Type"] == "image/png"
    body = {"prompt": "a star", "size": "64x64", "response_format": "url"}
    url = http.post("/ai/v1/images/generations", json=body).json()["data"][0]["url"]
    assert url.startswith(f"{proxied.url}/ai/storage/")
    assert http.get(url).headers["Content-Type"] == "image/png"
    assert http.get("/ai/openapi.json").json()["servers"] == [{"url": "/ai"}]
    assert http.get("/ai", follow_redirects=False).headers["Location"].startswith(f"{proxied.url}/ai/")
    assert http.head("/ai/").headers["Content-Type"].startswith("text/html")
    assert "error" in http.post("/ai/v1/images/generations", json={"n": 0}).json()


def test_only_allowed_hosts_are_served(proxied: Proxied) -> None:
    for host, status in (("pictures.example.org", 200), ("evil.example", 421)):
        assert proxied.http.get("/ai/v1/models", headers={"Host": host}).status_code == status


def test_events_arrive_while_the_picture_is_drawn(proxied: Proxied) -> None:
    long = {"prompt": "a star", "size": "512x512", "num_inference_steps": 50}
    job = proxied.http.post("/ai/v1/jobs", json=long).headers["Location"]
    with proxied.http.stream("GET", f"{job}/events") as events:
        next(line for line in events.iter_lines() if line == "event: step")
        assert proxied.http.get(job).json()["status"] == "drawing"
    proxied.http.delete(job)


def _has_escaped_path(record: dict[str, object]) -> bool:
    return record["message"] == "GET /ai/a%0A%1B%5B31mb%E2%80%A8 404"


def test_log_names_the_clients_address_in_a_single_line(proxied: Proxied) -> None:
    transport = httpx.HTTPTransport(local_address="127.0.0.9", verify=False)
    forged_headers = {
        "X-Forwarded-For": "1.2.3.4",
        "X-Forwarded-Host": "evil.example",
        "Authorization": f"Bearer {_KEY}",
    }
    with httpx.Client(base_url=proxied.url, transport=transport, timeout=LIMIT) as http:
        assert http.get("/ai/a%0a%1b[31mb%e2%80%a8", headers=forged_headers).status_code == 404
    record = until(
        lambda: next(filter(_has_escaped_path, proxied.server.records()), None)
    )  # written after the response
    assert record["client"] == "127.0.0.9"
    assert _KEY not in proxied.server.log.read_text()


@pytest.mark.skipif("CI" not in os.environ and not (_CHROMIUM and _HAS_PLAYWRIGHT), reason="needs chromium, playwright")
def test_the_page_draws_through_the_proxy(proxied: Proxied) -> None:
    from playwright.sync_api import expect, sync_playwright

    urls: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(ignore_https_errors=True).new_page()
        page.on("request", lambda request: urls.append(request.url))
        page.goto(f"{proxied.url}/ai/")
        page.get_by_label("API key of this server").fill(_KEY)
        page.get_by_role("button", name="Use it").click()
        samplers = page.get_by_label("Sampler", exact=True).locator("option", has_text="Euler a")
        expect(samplers).to_have_count(1, timeout=30_000)
        page.get_by_label("Prompt", exact=True).fill("a lake")
        page.get_by_label("Size", exact=True).fill("64x64")
        page.get_by_role("button", name="Draw", exact=True).click()
        figure = page.locator("figure").first
        expect(figure).to_have_attribute("data-state", "done", timeout=60_000)
        assert figure.locator("img").evaluate("image => image.naturalWidth") == 64
        page.goto(f"{proxied.url}/ai/docs")
        page.locator("#operations-pictures-generate_generate_post").click(timeout=30_000)
        browser.close()
    own = (f"{proxied.url}/ai/", f"blob:{proxied.url}/", "data:")
    assert [url for url in urls if not url.startswith(own)] == []
    assert json.dumps(urls).count("/ai/page/app.js") == 1
