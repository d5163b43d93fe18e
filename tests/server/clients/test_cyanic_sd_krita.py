"""The Krita plugin Cyanic SD: ``cyanic/sdapi_v1.py`` and the widgets that fill its body."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.server.clients.conftest import Replay, base64_picture, picture, small

BODY: dict[str, Any] = {
    "prompt": "a castle on a hill",
    "negative_prompt": "people",
    "override_settings": {"sd_model_checkpoint": "other", "sd_vae": "Automatic", "img2img_color_correction": True},
    "override_settings_restore_afterwards": False,
    "sampler_name": "Euler a",
    "steps": 20,
    "refiner": "None",
    "refiner_switch_at": 0.8,
    "cfg_scale": 7.0,
    "width": 512,
    "height": 512,
    "n_iter": 1,
    "batch_size": 1,
    "seed": -1,
    "subseed": -1,
    "subseed_strength": 0,
    "enable_hr": False,
    "hr_scale": 2.0,
    "hr_upscaler": "None",
    "hr_second_pass_steps": 0,
    "denoising_strength": 0.75,
    "alwayson_scripts": {},
}
IMAGE: dict[str, Any] = {
    **BODY,
    "override_settings": {"sd_model_checkpoint": "other", "sd_vae": "Automatic", "img2img_color_correction": False},
    "CYANIC": {"results_below_layer_uuid": None},
    "init_images": [base64_picture()],
}
INPAINT: dict[str, Any] = {
    **IMAGE,
    "mask_blur": 4,
    "inpainting_mask_invert": 0,
    "inpainting_fill": 1,
    "inpaint_full_res": 0,
    "inpaint_full_res_padding": 32,
}


def test_it_connects_and_reads_its_lists(client: Replay) -> None:
    assert client.get("/queue/status") is not None  # otherwise, the plugin reports no connection
    models = client.get("/sdapi/v1/sd-models")
    assert client.get("/sdapi/v1/sd-vae") == []
    assert client.get("/sdapi/v1/samplers")
    assert client.get("/sdapi/v1/upscalers")[0]["name"] == "None"
    assert client.get("/sdapi/v1/face-restorers") == []
    assert [lora["name"] for lora in client.get("/sdapi/v1/loras")] == ["ink", "wash"]
    assert {row["name"]: (row["prompt"], row["negative_prompt"]) for row in client.get("/sdapi/v1/prompt-styles")} == {
        "ink": ("<lora:ink>", ""),
        "wash": ("<lora:wash>", ""),
    }
    assert "controlnet" not in client.get("/sdapi/v1/scripts")["txt2img"]
    assert [*client.get("/sdapi/v1/embeddings")["loaded"]] == []
    assert client.get("/sdapi/v1/hypernetworks") == []
    options = client.get("/sdapi/v1/options")
    assert options["sd_model_checkpoint"] in [model["title"] for model in models]
    assert options["sd_vae"] == "Automatic"
    assert options.get("sd_model_refiner", "").lower() == "none"
    assert options.get("img2img_color_correction", True) is False  # its own default would be refused


def test_it_draws_with_the_checkpoint_of_its_request(client: Replay) -> None:
    response = client.post("/sdapi/v1/txt2img", small(BODY))
    assert picture(response["images"][0]).size == (64, 64)
    assert json.loads(response["info"])["sd_model_name"] == "other"
    assert client.get("/sdapi/v1/options")["sd_model_checkpoint"] == "plain"
    assert client.post("/sdapi/v1/interrupt", {}) == {}


def test_a_style_in_the_prompt_draws_the_same_as_its_name(client: Replay) -> None:
    fixed = small(BODY) | {"seed": 7, "override_settings": {}}
    style = client.get("/sdapi/v1/prompt-styles")[0]
    by_text = client.post("/sdapi/v1/txt2img", fixed | {"prompt": f"a castle on a hill {style['prompt']}"})
    by_name = client.post("/sdapi/v1/txt2img", fixed | {"styles": [style["name"]]})
    plain = client.post("/sdapi/v1/txt2img", fixed | {"styles": ["None"]})
    pixels = [picture(response["images"][0]).tobytes() for response in (by_text, by_name, plain)]
    assert pixels[0] == pixels[1] != pixels[2]


def test_it_draws_from_the_canvas(client: Replay) -> None:
    response = client.post("/sdapi/v1/img2img", small(IMAGE))
    assert picture(response["images"][0]).size == (64, 64)
    assert json.loads(response["info"])["sd_model_name"] == "other"


@pytest.mark.parametrize("area", [0, 1])
def test_it_paints_a_layers_opaque_part(client: Replay, area: int) -> None:
    body = small(INPAINT) | {"mask": base64_picture(mode="RGBA"), "inpaint_full_res": area, "mask_blur": 0}
    drawn = picture(client.post("/sdapi/v1/img2img", body)["images"][0]).convert("RGB")
    original = picture(INPAINT["init_images"][0])
    assert drawn.crop((0, 0, 64, 16)).tobytes() == original.crop((0, 0, 64, 16)).tobytes()
    assert drawn.crop((16, 16, 48, 48)).tobytes() != original.crop((16, 16, 48, 48)).tobytes()


def test_its_colour_correction_is_refused_with_a_reason(client: Replay) -> None:
    body = small(IMAGE) | {"override_settings": {"img2img_color_correction": True}}
    response = client.http.post("/sdapi/v1/img2img", json=body)
    assert response.status_code == 422
    assert response.json()["detail"].startswith("The option img2img_color_correction is True, and img2img draws here")


def test_its_hires_has_the_canvas_size(client: Replay) -> None:
    hires = {"enable_hr": True, "hr_upscaler": "Latent", "hr_resize_x": 128, "hr_resize_y": 96}
    body = small(BODY) | hires | {"width": 64, "height": 48, "override_settings": {}}
    assert picture(client.post("/sdapi/v1/txt2img", body)["images"][0]).size == (128, 96)


def test_an_unknown_refiner_is_refused_by_name(client: Replay) -> None:
    body = small(BODY) | {"refiner_checkpoint": "missing", "refiner_switch_at": 0.8}
    response = client.http.post("/sdapi/v1/txt2img", json=body)
    assert response.status_code == 422
    assert "Invalid refiner_checkpoint 'missing'. This server draws only with" in response.json()["detail"]
