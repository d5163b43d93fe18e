"""The Discord bot AIYA: ``core/settings.py`` and ``core/stablecog.py``."""

from __future__ import annotations

import os.path
from typing import Any

from tests.server.clients.conftest import Replay, base64_picture, picture, small

BODY: dict[str, Any] = {
    "prompt": "a castle on a hill",
    "negative_prompt": "",
    "steps": 30,
    "width": 512,
    "height": 512,
    "cfg_scale": "7.0",
    "sampler_index": "Euler a",
    "seed": 1234567,
    "seed_resize_from_h": -1,
    "seed_resize_from_w": -1,
    "denoising_strength": None,
    "n_iter": 1,
    "batch_size": 1,
    "styles": [None],
    "override_settings": {"CLIP_stop_at_last_layers": 1},
}


def test_the_start_up_requests_succeed(client: Replay) -> None:
    assert client.http.get("/sdapi/v1/cmd-flags").status_code == 200
    assert client.http.head("/").status_code == 200
    client.http.post("/login")  # gradio's route; the bot does not read the response
    assert [sampler["name"] for sampler in client.get("/sdapi/v1/samplers")]
    assert [(style["prompt"], style["negative_prompt"]) for style in client.get("/sdapi/v1/prompt-styles")]
    assert [restorer["name"] for restorer in client.get("/sdapi/v1/face-restorers")] == []
    for kind in ("loaded", "skipped"):
        assert [embedding["shape"] for embedding in client.get("/sdapi/v1/embeddings")[kind].values()] == []
    assert [network["name"] for network in client.get("/sdapi/v1/hypernetworks")] == []
    assert [upscaler["name"] for upscaler in client.get("/sdapi/v1/upscalers")]
    for model in client.get("/sdapi/v1/sd-models"):
        assert os.path.normpath(model["filename"])
        assert {"title", "model_name", "hash"} <= {*model}
    assert "components" not in client.http.get("/config").json()


def test_it_draws_and_reads_the_pictures_metadata(client: Replay) -> None:
    client.post("/sdapi/v1/options", {"sd_model_checkpoint": "other"})
    response = client.post("/sdapi/v1/txt2img", small(BODY))
    text = response["images"][0]
    assert picture(text.split(",", 1)[0]).size == (64, 64)
    png_info = client.post("/sdapi/v1/png-info", {"image": f"data:image/png;base64,{text}"})
    assert "Seed: 1234567" in png_info["info"]


def test_it_draws_from_a_picture(client: Replay) -> None:
    image = {"init_images": [f"data:image/png;base64,{base64_picture()}"], "denoising_strength": "0.75"}
    response = client.post("/sdapi/v1/img2img", small(BODY) | image)
    assert picture(response["images"][0]).size == (64, 64)


def test_half_a_step_of_hires_is_cut_off(client: Replay) -> None:
    hires = {"enable_hr": True, "hr_upscaler": "Latent", "hr_scale": "1.5", "hr_second_pass_steps": 12.5}
    response = client.post("/sdapi/v1/txt2img", small(BODY) | hires | {"denoising_strength": "0.75"})
    assert picture(response["images"][0]).size == (96, 96)
    assert "Hires steps: 12, " in client.post("/sdapi/v1/png-info", {"image": response["images"][0]})["info"]
