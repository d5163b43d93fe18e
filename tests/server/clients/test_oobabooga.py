"""The extension of oobabooga's text generation web UI: ``extensions/sd_api_pictures/script.py``."""

from __future__ import annotations

from typing import Any

from tests.server.clients.conftest import Replay, picture, small

BODY: dict[str, Any] = {
    "prompt": "(Masterpiece:1.1), detailed, intricate, colorful(a castle on a hill:1)",
    "seed": -1,
    "sampler_name": "DPM++ 2M",
    "enable_hr": False,
    "hr_scale": "1.0",
    "hr_upscaler": "ESRGAN_4x",
    "denoising_strength": 0.61,
    "steps": 32,
    "cfg_scale": 7,
    "width": 512,
    "height": 512,
    "restore_faces": False,
    "override_settings_restore_afterwards": True,
    "negative_prompt": "(worst quality, low quality:1.3)",
}


def test_checkpoints_and_samplers_are_listed(client: Replay) -> None:
    titles = [model["title"] for model in client.get("/sdapi/v1/sd-models")]
    assert client.get("/sdapi/v1/options")["sd_model_checkpoint"] in titles
    assert "DPM++ 2M" in [sampler["name"] for sampler in client.get("/sdapi/v1/samplers")]


def test_the_model_is_unloaded_and_reloaded_before_a_picture(client: Replay) -> None:
    client.post("/sdapi/v1/options", {"sd_model_checkpoint": "old"})
    for _ in range(2):
        assert client.post("/sdapi/v1/unload-checkpoint", "") == {}
    assert client.get("/api/modes")["modes"]["old"]["state"] == "absent"
    assert client.post("/sdapi/v1/reload-checkpoint", "") == {}
    assert client.get("/api/modes")["modes"]["old"]["state"] == "ready"
    response = client.post("/sdapi/v1/txt2img", small(BODY))
    assert picture(response["images"][0].split(",", 1)[0]).size == (64, 64)
