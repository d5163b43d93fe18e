"""Plugins' parameters in the server's bodies, documents and lists; fields that nobody declares are refused."""

from __future__ import annotations

from typing import Any

import pytest

from imagegen_core import Parameter, Registry, read_recipe
from tests.server.conftest import Running, StartServer

DECLARED = (
    Parameter("watermark", str, "", "Text in a corner."),
    Parameter("tiling", bool, False, "Whether the picture tiles."),
    Parameter("elsewhere", bool, False, "For another backend.", backends=("other",)),
)


@pytest.fixture
def server(serve: StartServer, monkeypatch: pytest.MonkeyPatch) -> Running:
    discover = Registry.discover

    def with_parameters(*arguments: Any) -> Registry:
        registry = discover(*arguments)
        registry.parameters.update({each.name: each for each in DECLARED})
        return registry

    monkeypatch.setattr(Registry, "discover", with_parameters)
    return serve()


def test_a_parameter_stands_in_the_recipe(server: Running) -> None:
    assert read_recipe(server.draw(watermark="me").content).parameters == {"watermark": "me"}
    assert server.draw(watermark="").content == server.draw().content


def test_every_route_takes_parameters(server: Running) -> None:
    expected = server.draw(watermark="me").content
    body = {"prompt": "a star", "size": "64x64", "seed": 7, "watermark": "me"}
    job = server.http.post("/v1/jobs", json=body).json()
    server.until(lambda: server.http.get(f"/v1/jobs/{job['id']}").json()["status"] == "done")
    assert server.http.get(job["image"] or f"/v1/jobs/{job['id']}/image").content == expected
    import base64

    answer = server.http.post("/v1/images/generations", json=body).json()
    assert base64.b64decode(answer["data"][0]["b64_json"]) == expected
    asked = {"prompt": "a star", "width": 64, "height": 64, "seed": 7, "watermark": "me", "steps": 4, "cfg_scale": 1}
    drawn = server.http.post("/sdapi/v1/txt2img", json=asked).json()
    assert read_recipe(base64.b64decode(drawn["images"][0])).parameters == {"watermark": "me"}


@pytest.mark.parametrize(
    ("fields", "field", "sentence"),
    [
        ({"watermrk": "x"}, "watermrk", "Unknown field 'watermrk', which no installed plugin declares: did you mean"),
        ({"watermark": 7}, "watermark", "Invalid watermark 7: input should be a valid string"),
        ({"elsewhere": True}, "elsewhere", "Invalid elsewhere True for the backend 'sdxl': it does not support it"),
        ({"style_lora": {"stile": "x"}}, "style_lora.stile", "Unknown field 'style_lora.stile': leave it out"),
        ({"parameters": {"watermark": "x"}}, "parameters", "Unknown field 'parameters'"),
    ],
)
def test_a_wrong_field_is_refused_by_every_route_of_our_own(
    server: Running, fields: dict[str, Any], field: str, sentence: str
) -> None:
    for route in ("/generate", "/v1/jobs"):
        response = server.http.post(route, json={"prompt": "a star", **fields})
        assert (response.status_code, response.json()["field"]) == (422, field)
        assert sentence in response.json()["detail"]
    response = server.http.post("/v1/images/generations", json={"prompt": "a star", **fields})
    assert response.status_code == 400
    assert sentence in response.json()["error"]["message"]


@pytest.mark.parametrize("route", ["/api/modes/switch", "/api/models/load", "/api/models/unload"])
def test_other_bodies_take_no_unknown_fields(server: Running, route: str) -> None:
    response = server.http.post(route, json={"mode": "default", "mdoe": "x"})
    assert (response.status_code, response.json()["field"]) == (422, "mdoe")


def test_a1111s_routes_ignore_unknown_fields_as_a1111_does(server: Running) -> None:
    body = {"prompt": "a star", "width": 64, "height": 64, "seed": 7, "steps": 1, "cfg_scale": 1}
    assert server.http.post("/sdapi/v1/txt2img", json=body | {"nonsense": 1}).status_code == 200
    assert server.http.post("/sdapi/v1/txt2img", json=body | {"tiling": True}).status_code == 200
    assert server.http.post("/sdapi/v1/txt2img", json=body | {"restore_faces": True}).status_code == 422


def test_the_openapi_document_has_the_parameters(server: Running) -> None:
    schemas = server.http.get("/openapi.json").json()["components"]["schemas"]
    for name, is_open in (("GenerateBody", False), ("ImagesBody", False), ("Txt2ImgBody", True)):
        described = schemas[name]["properties"]["watermark"]
        assert (described["type"], described["default"], described["description"]) == (
            "string",
            "",
            "Text in a corner.",
        )
        assert schemas[name]["additionalProperties"] is is_open


def test_the_list_of_models_says_what_each_supports(server: Running) -> None:
    (model,) = server.http.get("/v1/models").json()["data"]
    assert model["backend"] == "sdxl"
    assert "negative_prompt" in model["fields"]
    assert set(model["parameters"]) == {"watermark", "tiling"}
    assert server.http.get(f"/v1/models/{model['id']}").json() == model
