"""``txt2img``, used by the unmodified webuiapi client."""

from __future__ import annotations

import base64
import io
import json

import pytest
import webuiapi
from PIL import Image

from imagegen_core import read_recipe
from imagegen_core.server.a1111 import Txt2ImgBody
from tests.server.a1111.conftest import client_of
from tests.server.conftest import Running, StartServer


def test_txt2img_draws_the_same_picture_as_generate(client: webuiapi.WebUIApi, server: Running) -> None:
    result = client.txt2img(prompt="a star", negative_prompt="", seed=7, width=64, height=64, cfg_scale=1)
    assert result.image.tobytes() == Image.open(io.BytesIO(server.draw().content)).tobytes()
    assert result.info["all_seeds"] == [7]
    assert "Seed: 7" in result.info["infotexts"][0]
    assert result.parameters["prompt"] == "a star"


def test_batches_use_consecutive_seeds(client: webuiapi.WebUIApi) -> None:
    result = client.txt2img(prompt="a star", seed=7, width=64, height=64, cfg_scale=1, batch_size=2, n_iter=2)
    assert len(result.images) == 4
    assert result.info["all_seeds"] == [7, 8, 9, 10]


def test_null_fields_count_as_missing(server: Running) -> None:
    body = {"prompt": "a star", "width": 64, "height": 64, "steps": 2}
    nulls = dict.fromkeys(
        {*Txt2ImgBody.model_fields, "denoising_strength", "enable_hr", "hr_upscaler", "subseed"} - {*body}
    )
    result = server.http.post("/sdapi/v1/txt2img", json={**body, **nulls}).json()
    recipe = read_recipe(base64.b64decode(result["images"][0]))
    assert (recipe.negative_prompt, recipe.scheduler, recipe.style) == (None, "LCM", None)
    repeated = server.http.post("/sdapi/v1/txt2img", json={**body, "seed": recipe.seed}).json()
    assert repeated["images"] == result["images"]


def test_info_describes_the_pictures(server: Running) -> None:
    body = {"prompt": "a star", "width": 64, "height": 72, "steps": 3, "batch_size": 2, "styles": [None, "None", ""]}
    override = {"override_settings": {"CLIP_stop_at_last_layers": 2}}
    info = json.loads(server.http.post("/sdapi/v1/txt2img", json=body | override).json()["info"])
    assert {name: info[name] for name in ("steps", "width", "height", "clip_skip", "sampler_name", "styles")} == {
        "steps": 3,
        "width": 64,
        "height": 72,
        "clip_skip": 2,
        "sampler_name": "LCM",
        "styles": [],
    }
    assert info["all_seeds"] == [info["seed"], info["seed"] + 1]
    assert info["sd_model_name"] == server.http.get("/sdapi/v1/sd-models").json()[0]["model_name"]
    assert [text.splitlines()[0] for text in info["infotexts"]] == info["all_prompts"] == ["a star", "a star"]
    plain = json.loads(server.http.post("/sdapi/v1/txt2img", json=body).json()["info"])
    assert (plain["clip_skip"], plain["cfg_scale"]) == (1, 1.0)
    assert (
        json.loads(server.http.post("/sdapi/v1/txt2img", json=body | {"clip_skip": 2}).json()["info"])["clip_skip"] == 2
    )


def test_password_is_the_api_key(serve: StartServer) -> None:
    server = serve(api_keys="right")
    assert client_of(server, username="me", password="right").get_scripts()["txt2img"] == []
    wrong = client_of(server, username="me", password="wrong")
    with pytest.raises(RuntimeError) as caught:
        wrong.txt2img(prompt="a star")
    assert caught.value.args[0] == 401


def test_long_lists_are_refused_early(server: Running) -> None:
    response = server.http.post("/sdapi/v1/txt2img", json={"styles": [1] * 9_000})
    assert response.status_code == 422
    assert response.json()["detail"].startswith("Invalid styles.0 1: ")
    response = server.http.post("/sdapi/v1/txt2img", json={"styles": [None] * 9_000})
    assert "at most 64 items" in response.json()["detail"]
