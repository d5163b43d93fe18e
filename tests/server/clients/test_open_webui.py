"""Open WebUI with both of its engines for this server: ``backend/open_webui/routers/images.py``."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from imagegen_core import read_recipe
from imagegen_core.server.a1111.options import Options
from tests.server.clients.conftest import Replay, encoded, picture

A1111_AUTH = {"authorization": ""}  # its header without a configured user and password
OPENAI_HEADERS = {"Authorization": "Bearer any", "Content-Type": "application/json"}
EDIT_HEADERS = {"Authorization": "Bearer any"}
A1111_BODY: dict[str, Any] = {"prompt": "a castle", "batch_size": 1, "width": 64, "height": 64, "steps": 2}
OPENAI_BODY: dict[str, Any] = {
    "model": "plain",
    "prompt": "a castle",
    "n": 1,
    "size": "64x64",
    "response_format": "b64_json",
}


def test_a1111s_models_are_listed(client: Replay) -> None:
    models = client.get("/sdapi/v1/sd-models", **A1111_AUTH)
    shown = [{"id": model["title"], "name": model["model_name"]} for model in models]
    assert {"id": "plain", "name": "plain"} in shown


def test_the_model_is_switched_by_posting_all_options_back(client: Replay) -> None:
    options = client.get("/sdapi/v1/options", **A1111_AUTH)
    assert options["sd_model_checkpoint"] == "plain"
    client.post("/sdapi/v1/options", options | {"sd_model_checkpoint": "other"}, **A1111_AUTH)
    assert client.get("/sdapi/v1/options", **A1111_AUTH) == options | {"sd_model_checkpoint": "other"}
    response = client.post("/sdapi/v1/txt2img", A1111_BODY, **A1111_AUTH)
    assert json.loads(response["info"])["sd_model_name"] == "other"


@pytest.mark.parametrize("more", [{}, {"negative_prompt": "people"}, {"batch_size": 2}])
def test_pictures_are_drawn_with_a1111s_api(client: Replay, more: dict[str, Any]) -> None:
    response = client.post("/sdapi/v1/txt2img", A1111_BODY | more, **A1111_AUTH)
    assert len(response["images"]) == more.get("batch_size", 1)
    assert all(picture(text).size == (64, 64) for text in response["images"])
    assert response["info"]


def test_pictures_are_drawn_with_openais_api(client: Replay) -> None:
    response = client.post("/v1/images/generations", OPENAI_BODY, **OPENAI_HEADERS)
    assert [picture(image["b64_json"]).size for image in response["data"]] == [(64, 64)]


def test_pictures_are_drawn_with_openais_model_names(client: Replay) -> None:
    body = {name: value for name, value in OPENAI_BODY.items() if name != "response_format"}  # not sent for GPT models
    response = client.post("/v1/images/generations", body | {"model": "gpt-image-1", "size": "auto"}, **OPENAI_HEADERS)
    assert picture(response["data"][0]["b64_json"]).size == (64, 64)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("name", ["image", "image[]"])  # the second from its tool for language models
@pytest.mark.parametrize("model", ["plain", "gpt-image-1"])
def test_a_picture_is_edited(client: Replay, kind: str, name: str, model: str) -> None:
    fields = {"model": model, "prompt": "a castle", "n": "2", "size": "64x64"}
    if not model.startswith("gpt-image"):
        fields["response_format"] = "b64_json"
    media = f"image/{kind.lower()}"
    files = {name: (f"{kind.lower()}.png", encoded(kind), media)}
    response = client.http.post("/v1/images/edits", data=fields, files=files, headers=EDIT_HEADERS)
    assert response.status_code == 200, response.text
    pictures = [base64.b64decode(image["b64_json"]) for image in response.json()["data"]]
    assert [read_recipe(each).prompt for each in pictures] == ["a castle"] * 2
    assert all(read_recipe(each).image for each in pictures)


def test_a_picture_of_a_chat_is_edited_at_its_own_size(client: Replay) -> None:
    fields = {"model": "plain", "prompt": "a castle", "background": "auto", "response_format": "b64_json"}
    response = client.http.post(
        "/v1/images/edits", data=fields, files={"image": ("a.png", encoded(), "image/png")}, headers=EDIT_HEADERS
    )
    assert picture(response.json()["data"][0]["b64_json"]).size == (48, 56)


def test_several_pictures_of_a_chat_are_refused_with_a_reason(client: Replay) -> None:
    files = [("image[]", (f"{number}.png", encoded(), "image/png")) for number in range(2)]
    response = client.http.post("/v1/images/edits", data={"prompt": "both"}, files=files, headers=EDIT_HEADERS)
    assert response.status_code == 400
    assert response.json()["error"]["message"] == (
        "Invalid image with 2 pictures: this server draws from one picture; send one"
    )


def test_posting_the_options_replaces_a_missing_model(client: Replay) -> None:
    client.app.state.context.options.set("", Options(mode="gone"))  # the state after a reload of the modes
    refused = client.http.post("/sdapi/v1/txt2img", json=A1111_BODY)
    assert (refused.status_code, "Unknown mode 'gone'" in refused.text) == (422, True)
    options = client.get("/sdapi/v1/options", **A1111_AUTH)
    assert options["sd_model_checkpoint"] == "plain"
    client.post("/sdapi/v1/options", options, **A1111_AUTH)
    assert client.post("/sdapi/v1/txt2img", A1111_BODY, **A1111_AUTH)["images"]
