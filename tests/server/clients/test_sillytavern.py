"""SillyTavern's image extension with its source "Stable Diffusion Web UI (AUTOMATIC1111)".

The requests: ``src/endpoints/stable-diffusion.js``. The body and its defaults: ``generateAutoImage`` and
``defaultSettings`` in ``public/scripts/extensions/stable-diffusion/index.js``.
"""

from __future__ import annotations

import json
from typing import Any

from tests.server.clients.conftest import Replay, picture, small

AUTH = {"Authorization": "Basic"}  # its header without a configured user and password
BODY: dict[str, Any] = {
    "url": "http://localhost:4200",
    "auth": "",
    "prompt": "best quality, a castle on a hill",
    "negative_prompt": "lowres, bad anatomy, bad hands, text",
    "sampler_name": "DDIM",
    "scheduler": "normal",
    "steps": 20,
    "cfg_scale": 7,
    "width": 512,
    "height": 512,
    "restore_faces": False,
    "enable_hr": False,
    "hr_upscaler": "Latent",
    "hr_scale": 1,
    "hr_additional_modules": [],
    "denoising_strength": 0.7,
    "hr_second_pass_steps": 0,
    "override_settings": {"CLIP_stop_at_last_layers": 1},
    "override_settings_restore_afterwards": True,
    "clip_skip": 1,
    "save_images": True,
    "send_images": True,
    "do_not_save_grid": False,
    "do_not_save_samples": False,
}


def test_its_lists_of_choices_are_complete(client: Replay) -> None:
    def names(path: str, key: str = "name") -> list[str]:
        return [row[key] for row in client.get(f"/sdapi/v1/{path}", **AUTH)]

    options = client.get("/sdapi/v1/options", **AUTH)
    assert options["sd_model_checkpoint"] in names("sd-models", "title")
    assert "forge_preset" not in options  # SillyTavern recognizes Forge by it
    assert {"DDIM", "Euler a"} <= {*names("samplers")}
    assert {"automatic", "normal"} <= {*names("schedulers")}
    assert names("upscalers")[0] == "None"
    assert names("latent-upscale-modes")[:2] == ["Latent", "Latent (antialiased)"]
    assert names("sd-vae", "model_name") == names("sd-modules", "model_name") == []


def test_it_switches_to_another_model(client: Replay) -> None:
    assert client.post("/sdapi/v1/options", {"sd_model_checkpoint": "other"}, **AUTH) is None
    progress = client.get("/sdapi/v1/progress", **AUTH)
    assert (progress["progress"], progress["state"]["job_count"]) == (0.0, 0)
    assert client.get("/sdapi/v1/options", **AUTH)["sd_model_checkpoint"] == "other"
    response = client.post("/sdapi/v1/txt2img", small(BODY), **AUTH)
    assert json.loads(response["info"])["sd_model_name"] == "other"


def test_it_draws_with_its_defaults(client: Replay) -> None:
    response = client.post("/sdapi/v1/txt2img", small(BODY), **AUTH)
    assert picture(response["images"][0]).size == (64, 64)
    assert "auth" not in response["parameters"]


def test_its_settings_are_applied(client: Replay) -> None:
    fields = {"sampler_name": "Euler a", "seed": 7, "override_settings": {"CLIP_stop_at_last_layers": 2}}
    response = client.post("/sdapi/v1/txt2img", small(BODY | fields), **AUTH)
    info = json.loads(response["info"])
    assert (info["seed"], info["clip_skip"], info["sampler_name"]) == (7, 2, "Euler a")
    assert "Clip skip: 2" in info["infotexts"][0]


def test_hires_is_drawn_with_its_choices(client: Replay) -> None:
    fields = {"enable_hr": True, "hr_scale": 1.5, "hr_second_pass_steps": 1, "sampler_name": "Euler a"}
    response = client.post("/sdapi/v1/txt2img", small(BODY | fields), **AUTH)
    assert picture(response["images"][0]).size == (96, 96)
    unknown = client.http.post("/sdapi/v1/txt2img", json=small(BODY | fields | {"hr_upscaler": "R-ESRGAN 4x+"}))
    assert unknown.status_code == 422
    assert unknown.json()["detail"].startswith("Invalid hr_upscaler 'R-ESRGAN 4x+': ")
