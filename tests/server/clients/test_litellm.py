"""LiteLLM 1.110.2 before an OpenAI-compatible server: ``image_generation``, ``image_edit`` and ``image_variation``.

It generates and varies by OpenAI's own client, and edits by an HTTP client of its own. The fields and their order are
recorded from these calls.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.server.clients.conftest import Replay, encoded, picture

OPENAI = {"Authorization": "Bearer any", "Accept": "application/json", "User-Agent": "OpenAI/Python 3.57.0"}
OWN = {"Authorization": "Bearer any", "Accept": "*/*", "User-Agent": "litellm/1.110.2"}
_FILE = "/home/me/castle.png"  # it sends the whole path of an open file


@pytest.mark.parametrize(
    "body",
    [
        {"model": "gpt-image-1", "prompt": "a castle", "n": 2, "quality": "high", "size": "64x64"},
        {"model": "gpt-image-1", "prompt": "a castle", "guidance_scale": 1.5, "seed": 7},  # unknown ones, as extra_body
    ],
)
def test_pictures_are_generated(client: Replay, body: dict[str, Any]) -> None:
    data = client.post("/v1/images/generations", body, **OPENAI)["data"]
    assert [picture(each["b64_json"]).size for each in data] == [(64, 64)] * body.get("n", 1)


def test_an_open_file_is_edited(client: Replay) -> None:
    fields = {"model": "gpt-image-1", "n": "2", "size": "64x64", "prompt": "in winter"}
    data = _edited(client, fields, {"image[]": (_FILE, encoded(), "image/png")})
    assert [picture(each["b64_json"]).size for each in data] == [(64, 64)] * 2


def test_a_transparent_mask_keeps_the_rest(client: Replay) -> None:
    image = encoded()
    before = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))
    mask = Image.new("RGBA", (before.shape[1], before.shape[0]), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 24, before.shape[0]))
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    fields = {"model": "gpt-image-1", "response_format": "b64_json", "strength": "0.6", "prompt": "in winter"}
    files = {"image[]": (_FILE, image, "image/png"), "mask": (_FILE, buffer.getvalue(), "image/png")}
    (data,) = _edited(client, fields, files)
    after = np.asarray(picture(data["b64_json"]).convert("RGB"))
    assert (after[:, 24:] == before[: after.shape[0], 24 : after.shape[1]]).all()
    assert (after[:, :24] != before[: after.shape[0], :24]).any()


def test_a_picture_is_varied_without_a_model(client: Replay) -> None:
    files = {"image": ("castle.png", encoded(), "image/png")}
    response = client.http.post("/v1/images/variations", files=files, headers=OPENAI)
    assert response.status_code == 200, response.text
    assert picture(response.json()["data"][0]["b64_json"]).size == (48, 56)


def _edited(client: Replay, fields: dict[str, str], files: dict[str, Any]) -> list[dict[str, str]]:
    response = client.http.post("/v1/images/edits", data=fields, files=files, headers=OWN)
    assert response.status_code == 200, response.text
    return list(response.json()["data"])
