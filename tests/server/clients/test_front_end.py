"""The front end of the servers that had ``modes.yaml`` first: its ``src/utils/api.js``, and their ``/api``."""

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


def test_a_picture_comes_with_its_seed(client: Replay) -> None:
    answer = client.http.post("/generate", json=BODY)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert (answer.headers["X-Seed"], answer.headers["X-SuperRes"]) == ("12345678", "0")
    assert Image.open(io.BytesIO(answer.content)).size == (64, 64)
    assert client.http.get(f"/storage/{answer.headers['X-LCM-Image-Key']}").content == answer.content


def test_a_picture_is_enlarged(client: Replay) -> None:
    answer = client.http.post("/generate", json=BODY | {"superres": True, "superres_magnitude": 1})
    assert (answer.status_code, answer.headers["X-SuperRes"]) == (200, "1")
    assert answer.headers["X-SR-Scale-Per-Pass"]
    form = {"magnitude": "1", "out_format": "png", "quality": "92"}
    sent = client.http.post("/superres", data=form, files={"file": ("a.png", answer.content, "image/png")})
    assert (sent.status_code, sent.headers["content-type"]) == (200, "image/png")
