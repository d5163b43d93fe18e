"""SillyTavern's image extension with its source "Stable Diffusion Web UI (AUTOMATIC1111)".

The requests: ``src/endpoints/stable-diffusion.js``. The body and its defaults: ``generateAutoImage`` and
``defaultSettings`` in ``public/scripts/extensions/stable-diffusion/index.js``.
"""

from __future__ import annotations

import json
from typing import Any

from tests.server.clients.conftest import Replay, picture, small

AUTH = {"Authorization": "Basic"}  # what it sends where no user and password are set
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


def test_it_finds_what_there_is_to_choose_from(client: Replay) -> None:
    def names(path: str, key: str = "name") -> list[str]:
        return [one[key] for one in client.get(f"/sdapi/v1/{path}", **AUTH)]

    options = client.get("/sdapi/v1/options", **AUTH)
    assert options["sd_model_checkpoint"] in names("sd-models", "title")
    assert "forge_preset" not in options  # by which it would know Forge
    assert {"DDIM", "Euler a"} <= {*names("samplers")}
    assert {"automatic", "normal"} <= {*names("schedulers")}
    assert names("upscalers")[0] == "None"
    assert names("latent-upscale-modes") == []
    assert names("sd-vae", "model_name") == names("sd-modules", "model_name") == []


def test_it_switches_to_another_model(client: Replay) -> None:
    assert client.post("/sdapi/v1/options", {"sd_model_checkpoint": "other"}, **AUTH) is None
    progress = client.get("/sdapi/v1/progress", **AUTH)
    assert (progress["progress"], progress["state"]["job_count"]) == (0.0, 0)
    assert client.get("/sdapi/v1/options", **AUTH)["sd_model_checkpoint"] == "other"
    drawn = client.post("/sdapi/v1/txt2img", small(BODY), **AUTH)
    assert json.loads(drawn["info"])["sd_model_name"] == "other"


def test_it_draws_with_its_defaults(client: Replay) -> None:
    drawn = client.post("/sdapi/v1/txt2img", small(BODY), **AUTH)
    assert picture(drawn["images"][0]).size == (64, 64)
    assert "auth" not in drawn["parameters"]


def test_its_settings_are_followed(client: Replay) -> None:
    chosen = {"sampler_name": "Euler a", "seed": 7, "override_settings": {"CLIP_stop_at_last_layers": 2}}
    drawn = client.post("/sdapi/v1/txt2img", small(BODY | chosen), **AUTH)
    info = json.loads(drawn["info"])
    assert (info["seed"], info["clip_skip"], info["sampler_name"]) == (7, 2, "Euler a")
    assert "Clip skip: 2" in info["infotexts"][0]
