"""The installed package webuiapi."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
import webuiapi

from tests.server.clients.conftest import Replay, base64_picture, picture

LATENTS = {mode.value for mode in webuiapi.HiResUpscaler if mode.value.startswith("Latent")}


@pytest.fixture
def api(client: Replay) -> webuiapi.WebUIApi:
    address = urlsplit(str(client.http.base_url))
    return webuiapi.WebUIApi(host=address.hostname, port=address.port, steps=2)


def test_its_lists_are_available(api: webuiapi.WebUIApi) -> None:
    assert api.get_sd_vae() == []
    assert {mode["name"] for mode in api.get_latent_upscale_modes()} == LATENTS
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


def test_an_image_is_drawn_again(api: webuiapi.WebUIApi) -> None:
    image = picture(base64_picture(80, 64))
    result = api.img2img(images=[image], prompt="a castle", seed=7, width=64, height=64, alwayson_scripts={})
    assert result.image.size == (64, 64)
    assert result.info["denoising_strength"] == 0.75
    assert result.parameters["init_images"] is None
    scaled = api.img2img(images=[image], resize_mode=3, prompt="a castle", width=64, height=64, alwayson_scripts={})
    assert scaled.image.size == (64, 64)


def test_a_part_is_painted_with_its_defaults(api: webuiapi.WebUIApi) -> None:
    image, mask = picture(base64_picture(80, 64)), picture(base64_picture(80, 64, "L"))
    result = api.img2img(images=[image], mask_image=mask, width=64, height=64, mask_blur=0, alwayson_scripts={})
    assert result.image.size == (80, 64)  # only the masked part is drawn, and the image keeps its size
    assert result.image.crop((0, 0, 16, 16)).tobytes() == image.crop((0, 0, 16, 16)).tobytes()


def test_pictures_are_enlarged_by_hires(api: webuiapi.WebUIApi) -> None:
    result = api.txt2img(prompt="a castle", width=64, height=64, enable_hr=True, hr_scale=1.5, alwayson_scripts={})
    assert result.image.size == (96, 96)
    assert result.info["extra_generation_params"]["Hires upscaler"] == "Latent"
    resized = api.txt2img(prompt="a castle", width=64, height=64, enable_hr=True, hr_resize_x=80, alwayson_scripts={})
    assert resized.image.size == (80, 80)


def test_extra_seeds_are_reported(api: webuiapi.WebUIApi) -> None:
    extra = {"subseed": 3, "subseed_strength": 0.2, "batch_size": 2, "alwayson_scripts": {}}
    result = api.txt2img(prompt="a castle", seed=7, width=64, height=64, **extra)
    assert (result.info["all_seeds"], result.info["all_subseeds"]) == ([7, 7], [3, 4])
