"""POST /superres."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import pytest
from PIL import Image

from imagegen_core import read_recipe
from tests.server.conftest import Running, StartServer


def _png(width: int = 16, height: int = 8, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, format="PNG")
    return buffer.getvalue()


def _bomb(side: int) -> bytes:
    """Return a small PNG whose header declares a huge size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def _post(server: Running, data: bytes, route: str = "/superres", **fields: Any) -> Any:
    return server.http.post(route, files={"file": ("a.png", data)}, data=fields)


@pytest.mark.parametrize("route", ["/superres", "/v1/superres"])
def test_a_picture_is_enlarged(server: Running, route: str) -> None:
    response = _post(server, _png(), route, magnitude=2)
    assert Image.open(io.BytesIO(response.content)).size == (64, 32)
    assert (response.headers["X-SR-Passes"], response.headers["X-SR-Format"]) == ("2", "png")


def test_jpeg_has_the_requested_quality(server: Running) -> None:
    picture = server.draw().content
    small, large = (_post(server, picture, out_format="jpeg", quality=quality) for quality in (10, 95))
    assert small.headers["content-type"] == "image/jpeg"
    assert len(small.content) < len(large.content)


def test_enlarged_picture_keeps_its_recipe(server: Running) -> None:
    recipe = read_recipe(_post(server, server.draw().content).content)
    assert (recipe.seed, recipe.upscalings[0].factor) == (7, 2)


@pytest.mark.parametrize(
    ("data", "fields", "sentence"),
    [
        (b"nonsense", {}, "Cannot read the picture: it is not a PNG"),
        (_png()[:40], {}, "Cannot read the picture"),
        (_png(mode="RGBA"), {}, "it has transparent parts"),
        (_bomb(60_000), {}, "Cannot upscale 60000x60000 to 120000x120000: that is more than the 24.0 million pixels"),
        (_png(4000, 4000), {}, "Cannot upscale 4000x4000 to 8000x8000: that is more than the 24.0 million pixels"),
        (_png(), {"magnitude": 4}, "Invalid magnitude '4'"),
        (_png(), {"quality": 0}, "Invalid quality '0'"),
        (_png(), {"out_format": "gif"}, "Invalid out_format 'gif'"),
    ],
)
def test_invalid_pictures_and_fields_are_a_422(
    server: Running, data: bytes, fields: dict[str, Any], sentence: str
) -> None:
    response = _post(server, data, **fields)
    assert response.status_code == 422
    assert sentence in response.json()["detail"]


def test_missing_picture_is_reported(server: Running) -> None:
    assert server.http.post("/superres", data={"magnitude": 1}).json()["detail"] == "Missing file: give it"


def test_the_configured_upscaler_enlarges(serve: StartServer) -> None:
    assert _post(serve(upscaler="lanczos"), _png()).headers["X-SR-Model"] == "lanczos"
