"""The Photoshop plugin Auto-Photoshop: ``sdapi_py_re.js``, and ``controlnet/entry.ts`` and ``session/modes.ts``."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.clients.conftest import Replay, base64_picture, picture, small

UNIT: dict[str, Any] = {
    "enabled": False,
    "input_image": "",
    "mask": "",
    "module": "none",
    "model": "none",
    "weight": 1.0,
    "resize_mode": "Scale to Fit (Inner Fit)",
    "lowvram": True,
    "processor_res": 512,
    "threshold_a": 0,
    "threshold_b": 0,
    "guidance_start": 0,
    "guidance_end": 1,
    "guessmode": False,
}
BODY: dict[str, Any] = {
    "uniqueDocumentId": "f4a1",
    "mode": "txt2img",
    "prompt": "a castle on a hill",
    "negative_prompt": "",
    "steps": 20,
    "sampler_index": "Euler a",
    "cfg_scale": 7,
    "seed": "-1",
    "batch_size": 1,
    "width": 512,
    "height": 512,
    "denoising_strength": 0.7,
    "mask_blur": 8,
    "restore_faces": False,
    "enable_hr": False,
    "script_name": None,
    "script_args": [],
    "subseed": -1,
    "override_settings": {},
    "override_settings_restore_afterwards": True,
    "controlnet_units": [UNIT, UNIT],
    "alwayson_scripts": {"controlnet": {"args": [UNIT, UNIT]}},
}


def test_the_start_up_requests_succeed(client: Replay) -> None:
    titles = [model["title"] for model in client.get("/sdapi/v1/sd-models")]
    assert client.get("/sdapi/v1/options")["sd_model_checkpoint"] in titles
    assert client.get("/sdapi/v1/samplers")
    assert client.http.get("/controlnet/version").status_code == 404  # as A1111 without the extension
    assert client.http.get("/config").json()
    assert client.post("/sdapi/v1/options", {"inpainting_mask_weight": 0.5}) is None
    assert client.get("/sdapi/v1/progress?skip_current_image=false")["progress"] == 0


def test_it_draws_with_controlnet_switched_off(client: Replay) -> None:
    assert client.post("/sdapi/v1/options", {"sd_model_checkpoint": "other"}) is None
    response = client.post("/sdapi/v1/txt2img", small(BODY))
    assert [picture(text).size for text in response["images"]] == [(64, 64)]


def test_a_disabled_controlnet_unit_may_contain_a_picture(client: Replay) -> None:
    scripts = {"controlnet": {"args": [UNIT | {"input_image": "iVBORw0K" * 400_000, "module": "canny"}]}}
    response = client.post("/sdapi/v1/txt2img", small(BODY) | {"alwayson_scripts": scripts})
    assert len(response["images"]) == 1


@pytest.mark.parametrize("fields", [{"enabled": True, "module": "canny"}, {"enabled": True, "model": "sd15 [1ab2]"}])
def test_an_enabled_controlnet_unit_is_refused(client: Replay, fields: dict[str, Any]) -> None:
    scripts = {"controlnet": {"args": [UNIT | fields]}}
    response = client.http.post("/sdapi/v1/txt2img", json=small(BODY) | {"alwayson_scripts": scripts})
    assert response.status_code == 422
    assert response.json()["detail"] == "There is no script 'controlnet' here: leave it out, or switch it off"


def test_it_draws_from_a_layer_with_its_weight_of_the_mask(client: Replay) -> None:
    body = small(BODY) | {"mode": "inpaint", "init_images": [base64_picture()], "inpainting_fill": 1}
    masked = body | {"mask": base64_picture(mode="L"), "inpaint_full_res": False, "mask_expansion": 0}
    assert client.post("/sdapi/v1/options", {"inpainting_mask_weight": 0.5}) is None
    assert picture(client.post("/sdapi/v1/img2img", body)["images"][0]).size == (64, 64)
    refused = client.http.post("/sdapi/v1/img2img", json=masked)
    assert (refused.status_code, "inpainting_mask_weight is 0.5" in refused.json()["detail"]) == (422, True)
    assert client.post("/sdapi/v1/options", {"inpainting_mask_weight": 1}) is None
    assert picture(client.post("/sdapi/v1/img2img", masked)["images"][0]).size == (64, 64)
