"""The installed package webuiapi."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
import webuiapi

from tests.server.clients.conftest import Replay


@pytest.fixture
def api(client: Replay) -> webuiapi.WebUIApi:
    address = urlsplit(str(client.http.base_url))
    return webuiapi.WebUIApi(host=address.hostname, port=address.port, steps=2)


def test_its_lists_are_available(api: webuiapi.WebUIApi) -> None:
    assert api.get_sd_vae() == []
    assert api.get_latent_upscale_modes() == []
    assert api.get_embeddings() == {"loaded": {}, "skipped": {}}
    assert api.get_hypernetworks() == []
    assert api.get_face_restorers() == []
    assert api.get_realesrgan_models() == []
    assert [style["name"] for style in api.get_prompt_styles()] == ["ink", "wash"]
    assert api.refresh_checkpoints() is None
    assert api.skip() is None
    assert "cuda" in api.get_memory()


def test_it_switches_models(api: webuiapi.WebUIApi) -> None:
    assert api.util_get_model_names() == ["gpt-image-1", "inked", "old", "other", "plain"]
    api.util_set_model("othr")  # webuiapi takes the closest name
    assert api.util_get_current_model() == "other"
    api.util_wait_for_ready(check_interval=0.01)
    response = api.txt2img(prompt="a castle", seed=7, width=64, height=64)
    assert response.info["sd_model_name"] == "other"


def test_units_without_a_model_have_no_effect(api: webuiapi.WebUIApi) -> None:
    api.has_controlnet = api.has_adetailer = api.has_animatediff = True  # the state after their detection
    off = {"controlnet_units": [webuiapi.ControlNetUnit()], "adetailer": [webuiapi.ADetailer()]}
    assert api.txt2img(prompt="a castle", width=64, height=64, alwayson_scripts={}).image.size == (64, 64)
    assert api.txt2img(prompt="a castle", width=64, height=64, alwayson_scripts={}, **off).image.size == (64, 64)
