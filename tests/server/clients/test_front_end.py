"""The front end of the first servers with ``modes.yaml``: its ``src/utils/api.js``, and the servers' ``/api``."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

from tests.server.clients.conftest import Replay

BODY: dict[str, Any] = {
    "prompt": "a castle on a hill",
    "size": "64x64",
    "num_inference_steps": 2,
    "guidance_scale": 1.0,
    "seed": 12345678,
    "superres": False,
    "superres_format": "png",
    "superres_quality": 92,
    "superres_magnitude": 1,
}


def test_modes_are_listed_and_switched(client: Replay) -> None:
    modes = client.get("/api/modes")
    assert isinstance(modes["modes"], dict)
    assert modes["default_mode"] in modes["modes"]
    client.post("/api/modes/switch", {"mode": "other"})
    assert client.get("/api/models/status")["current_mode"] == "other"
    assert client.http.post("/generate", json=BODY).headers["X-Mode"] == "other"
    client.post("/api/modes/switch", {"mode": "plain"})


def test_the_response_contains_the_pictures_seed(client: Replay) -> None:
    response = client.http.post("/generate", json=BODY)
    assert (response.status_code, response.headers["content-type"]) == (200, "image/png")
    assert (response.headers["X-Seed"], response.headers["X-SuperRes"]) == ("12345678", "0")
    assert Image.open(io.BytesIO(response.content)).size == (64, 64)
    assert client.http.get(f"/storage/{response.headers['X-LCM-Image-Key']}").content == response.content


def test_a_picture_is_enlarged(client: Replay) -> None:
    response = client.http.post("/generate", json=BODY | {"superres": True, "superres_magnitude": 1})
    assert (response.status_code, response.headers["X-SuperRes"]) == (200, "1")
    assert response.headers["X-SR-Scale-Per-Pass"]
    form = {"magnitude": "1", "out_format": "png", "quality": "92"}
    enlarged = client.http.post("/superres", data=form, files={"file": ("a.png", response.content, "image/png")})
    assert (enlarged.status_code, enlarged.headers["content-type"]) == (200, "image/png")
