"""Small files that unpack to much: neither memory nor time for anybody else."""

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
    """9000x9000 pixels in a few kilobytes, which Pillow unpacks to 1.2 GB on the way."""
    buffer = io.BytesIO()
    Image.new("RGB", (9000, 9000)).save(buffer, "WEBP", lossless=True)
    assert len(buffer.getvalue()) < 10_000
    return buffer.getvalue()


def _sent_to(server: Attacked, route: str, data: bytes) -> httpx.Response:
    if route == "/superres":
        return httpx.post(f"{server.url}{route}", files={"file": ("a", data)}, timeout=LIMIT)
    return httpx.post(f"{server.url}{route}", json={"image": base64.b64encode(data).decode()}, timeout=LIMIT)


@pytest.mark.parametrize("route", ["/sdapi/v1/png-info", "/sdapi/v1/extra-single-image", "/superres"])
def test_a_huge_picture_sent_six_times_at_once(attacked: Attacked, whole_webp: bytes, route: str) -> None:
    before = attacked.memory
    with attacked.watch() as health, ThreadPoolExecutor(6) as clients:
        answers = list(clients.map(lambda _: _sent_to(attacked, route, whole_webp), range(6)))
        assert attacked.draw().status_code == 200
    expected = 200 if route.endswith("png-info") else 422
    assert {answer.status_code for answer in answers} == {expected}
    if expected == 422:
        assert "9000x9000" in answers[0].json()["detail"]
    assert health.worst < PROMPTLY
    assert health.peak < before + 150 * _MB


@pytest.mark.parametrize("route", ["/sdapi/v1/png-info", "/superres"])
def test_a_bomb_of_each_kind(attacked: Attacked, route: str) -> None:
    before = attacked.memory
    with attacked.watch() as health:
        for name, data in BOMBS.items():
            answer = _sent_to(attacked, route, data)
            assert answer.status_code in (200, 413, 422), (name, answer.text)
            assert answer.status_code == 200 or "Cannot" in answer.json()["detail"], (name, answer.text)
        assert attacked.draw().status_code == 200
    assert health.worst < PROMPTLY
    assert health.peak < before + 250 * _MB


@pytest.mark.parametrize("filler", [b"\r\n--", b"\r", b"-", b"\r\n--boundar\r\n", b"a"])
def test_a_form_full_of_what_looks_like_boundaries(attacked: Attacked, filler: bytes) -> None:
    body = b'--boundary\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    body += filler * (16 * 2**20 // len(filler)) + b"\r\n--boundary--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=boundary"}
    with attacked.watch() as health:
        answer = httpx.post(f"{attacked.url}/superres", content=body, headers=headers, timeout=LIMIT)
    assert answer.status_code in (400, 422)
    assert health.worst < PROMPTLY


def test_a_form_of_many_parts(attacked: Attacked) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    with attacked.watch() as health:
        body = part * 100_000 + b"--b--\r\n"
        answer = httpx.post(f"{attacked.url}/superres", content=body, headers=headers, timeout=LIMIT)
    assert (answer.status_code, answer.json()["detail"]) == (400, "Too many fields. Maximum number of fields is 16.")
    assert health.worst < PROMPTLY


def test_large_base64_is_decoded_beside_the_event_loop(attacked: Attacked) -> None:
    text = base64.encodebytes(BOMBS["a PNG with much text"] + bytes(12 * 2**20)).decode()
    with attacked.watch() as health, ThreadPoolExecutor(3) as clients:
        answers = list(
            clients.map(
                lambda _: httpx.post(f"{attacked.url}/sdapi/v1/png-info", json={"image": text}, timeout=LIMIT), range(3)
            )
        )
    assert {answer.status_code for answer in answers} == {422}
    assert health.worst < PROMPTLY
