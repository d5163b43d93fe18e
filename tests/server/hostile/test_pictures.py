"""Small files with huge content take no memory or time from other clients."""

from __future__ import annotations

import base64
import io
from concurrent.futures import ThreadPoolExecutor

import httpx2 as httpx
import pytest
from PIL import Image

from tests.images.test_reading import BOMBS
from tests.server.conftest import LIMIT
from tests.server.hostile.conftest import PROMPTLY, Attacked

_MB = 10**6


@pytest.fixture(scope="module")
def whole_webp() -> bytes:
    """A WebP of 9000x9000 pixels in a few kilobytes; Pillow needs 1.2 GB to decode it."""
    buffer = io.BytesIO()
    Image.new("RGB", (9000, 9000)).save(buffer, "WEBP", lossless=True)
    assert len(buffer.getvalue()) < 10_000
    return buffer.getvalue()


def _send(server: Attacked, route: str, data: bytes) -> httpx.Response:
    if route == "/superres":
        return httpx.post(f"{server.url}{route}", files={"file": ("a", data)}, timeout=LIMIT)
    text = base64.b64encode(data).decode()
    return httpx.post(f"{server.url}{route}", json={"image": text, "init_images": [text]}, timeout=LIMIT)


@pytest.mark.parametrize(
    "route", ["/sdapi/v1/png-info", "/sdapi/v1/extra-single-image", "/sdapi/v1/img2img", "/superres"]
)
def test_six_huge_pictures_at_once_take_little_memory(attacked: Attacked, whole_webp: bytes, route: str) -> None:
    before = attacked.memory
    with attacked.watch() as health, ThreadPoolExecutor(6) as clients:
        responses = list(clients.map(lambda _: _send(attacked, route, whole_webp), range(6)))
        assert attacked.draw().status_code == 200
    expected = 200 if route.endswith("png-info") else 422
    assert {response.status_code for response in responses} == {expected}
    if expected == 422:
        assert "9000x9000" in responses[0].json()["detail"]
    assert health.worst < PROMPTLY
    assert health.peak < before + 150 * _MB


@pytest.mark.parametrize("route", ["/sdapi/v1/png-info", "/superres"])
def test_every_kind_of_bomb_takes_little_memory(attacked: Attacked, route: str) -> None:
    before = attacked.memory
    with attacked.watch() as health:
        for name, data in BOMBS.items():
            response = _send(attacked, route, data)
            assert response.status_code in (200, 413, 422), (name, response.text)
            assert response.status_code == 200 or "Cannot" in response.json()["detail"], (name, response.text)
        assert attacked.draw().status_code == 200
    assert health.worst < PROMPTLY
    assert health.peak < before + 250 * _MB


@pytest.mark.parametrize("filler", [b"\r\n--", b"\r", b"-", b"\r\n--boundar\r\n", b"a"])
def test_a_form_full_of_partial_boundaries_is_refused(attacked: Attacked, filler: bytes) -> None:
    body = b'--boundary\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    body += filler * (16 * 2**20 // len(filler)) + b"\r\n--boundary--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=boundary"}
    with attacked.watch() as health:
        response = httpx.post(f"{attacked.url}/superres", content=body, headers=headers, timeout=LIMIT)
    assert response.status_code in (400, 422)
    assert health.worst < PROMPTLY


def test_a_form_with_many_parts_is_refused(attacked: Attacked) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    with attacked.watch() as health:
        body = part * 100_000 + b"--b--\r\n"
        response = httpx.post(f"{attacked.url}/superres", content=body, headers=headers, timeout=LIMIT)
    assert (response.status_code, response.json()["detail"]) == (
        400,
        "Too many fields. Maximum number of fields is 16.",
    )
    assert health.worst < PROMPTLY


def test_large_base64_is_decoded_off_the_event_loop(attacked: Attacked) -> None:
    text = base64.encodebytes(BOMBS["a PNG with much text"] + bytes(12 * 2**20)).decode()
    with attacked.watch() as health, ThreadPoolExecutor(3) as clients:
        responses = list(
            clients.map(
                lambda _: httpx.post(f"{attacked.url}/sdapi/v1/png-info", json={"image": text}, timeout=LIMIT), range(3)
            )
        )
    assert {response.status_code for response in responses} == {422}
    assert health.worst < PROMPTLY
