"""LibreChat's tools: ``OpenAIImageTools.js`` and ``StableDiffusion.js`` in ``api/app/clients/tools/structured``."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.server.clients.conftest import Replay, encoded, picture, small

OPENAI_HEADERS = {"Authorization": "Bearer any", "User-Agent": "OpenAI/JS 5.8.2"}
OPENAI_BODY: dict[str, Any] = {
    "model": "gpt-image-1",
    "prompt": "A castle on a hill",
    "n": 1,
    "background": "auto",
    "output_format": "png",
    "quality": "auto",
    "size": "auto",
}
A1111_BODY: dict[str, Any] = {
    "prompt": "castle, hill, photo, 8k uhd, dslr, soft lighting, film grain",
    "negative_prompt": "drawing, cartoon, anime, cropped, out of frame, ugly, mutation",
    "cfg_scale": 4.5,
    "steps": 22,
    "width": 1024,
    "height": 1024,
}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"quality": "high", "size": "64x128"},  # its language model chooses these values
        {"quality": "medium", "background": "opaque"},
        {"quality": "low", "output_format": "webp", "output_compression": 100},
        {"output_format": "jpeg", "output_compression": 100, "n": 2},
    ],
)
def test_a_picture_is_drawn_with_openais_model_name(client: Replay, fields: dict[str, Any]) -> None:
    body = OPENAI_BODY | fields
    response = client.post("/v1/images/generations", body, **OPENAI_HEADERS)
    first = picture(response["data"][0]["b64_json"])
    assert first.format == body["output_format"].upper()
    assert first.size == ((64, 128) if body["size"] == "64x128" else (64, 64))


def test_a_picture_is_edited(client: Replay) -> None:
    fields = {"model": "gpt-image-1", "prompt": "A castle in winter", "quality": "auto", "size": "auto"}
    files = {"image[]": ("a.png", encoded(), "image/png")}
    response = client.http.post("/v1/images/edits", data=fields, files=files, headers=OPENAI_HEADERS)
    assert response.status_code == 200, response.text
    assert picture(response.json()["data"][0]["b64_json"]).size == (48, 56)


def test_an_unsupported_background_is_refused_with_a_reason(client: Replay) -> None:
    response = client.http.post("/v1/images/generations", json=OPENAI_BODY | {"background": "transparent"})
    assert response.status_code == 400
    assert "Invalid background 'transparent': expected auto or opaque" in response.json()["error"]["message"]


def test_a_picture_is_drawn_with_a1111s_api(client: Replay) -> None:
    response = client.post("/sdapi/v1/txt2img", small(A1111_BODY))
    assert picture(response["images"][0].split(",")[0]).size == (64, 64)
    info = json.loads(response["info"])
    assert (info["width"], info["height"]) == (64, 64)
    assert f"Seed: {info['seed']}" in info["infotexts"][0].split("\n").pop()
