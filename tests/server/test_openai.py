"""OpenAI's API, used by the unmodified official client."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import openai
import pytest
from PIL import Image

from imagegen_core import Settings, read_recipe
from imagegen_core.server import create_app
from imagegen_core.server.openai import ImagesBody
from tests.server.conftest import Running, StartServer, listening
from tests.waiting import until


def _client(server: Running, key: str = "any") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with _client(server) as client:
        yield client


def _picture(text: str | None) -> bytes:
    assert text
    return base64.b64decode(text)


def test_picture_is_returned_as_base64(client: openai.OpenAI, server: Running) -> None:
    response = client.images.generate(prompt="a star", size="64x64", extra_body={"seed": 7})  # type: ignore[call-overload]
    assert _picture(response.data[0].b64_json) == server.draw().content
    assert (response.size, response.output_format) == ("64x64", "png")


def test_several_pictures_have_consecutive_seeds(client: openai.OpenAI) -> None:
    response = client.images.generate(prompt="a star", n=3, extra_body={"seed": 7})
    assert response.data
    assert [read_recipe(_picture(image.b64_json)).seed for image in response.data] == [7, 8, 9]


def test_picture_is_returned_as_a_url(client: openai.OpenAI) -> None:
    response = client.images.generate(prompt="a star", response_format="url")
    assert response.data
    fetched = httpx.get(str(response.data[0].url))
    assert fetched.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(fetched.content)).size == (64, 64)


@pytest.mark.parametrize("encoding", ["jpeg", "webp"])
def test_picture_is_returned_in_other_formats(client: openai.OpenAI, encoding: Any) -> None:
    response = client.images.generate(prompt="a star", output_format=encoding, output_compression=60)
    assert response.data
    assert Image.open(io.BytesIO(_picture(response.data[0].b64_json))).format == encoding.upper()


def test_partial_pictures_precede_the_final_picture(client: openai.OpenAI, server: Running) -> None:
    stream = client.images.generate(
        prompt="a star", stream=True, partial_images=2, extra_body={"seed": 7, "num_inference_steps": 5}
    )
    events = list(stream)
    assert [event.type for event in events] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]  # type: ignore[union-attr]
    pictures = [_picture(event.b64_json) for event in events]
    assert all(Image.open(io.BytesIO(picture)).size == (64, 64) for picture in pictures)
    assert pictures[-1] == server.draw(num_inference_steps=5).content


def test_the_model_is_listed_and_can_be_named(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert client.models.retrieve(model.id).id == model.id
    assert client.images.generate(prompt="a star", model=model.id).data


@pytest.mark.parametrize(
    ("fields", "param", "sentence"),
    [
        ({"size": "12by7"}, "size", "Invalid size '12by7'"),
        ({"n": 11}, "n", "less than or equal to 10"),
        ({"quality": "hd"}, "quality", "Invalid quality 'hd': expected auto or standard or low or medium or high"),
        ({"style": "vivid"}, "style", "Invalid style 'vivid': expected natural"),
        ({"background": "transparent"}, "background", "Invalid background 'transparent'"),
    ],
)
def test_invalid_input_is_an_openai_error(
    client: openai.OpenAI, fields: dict[str, Any], param: str, sentence: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(prompt="a star", **fields)
    assert (caught.value.param, caught.value.type) == (param, "invalid_request_error")
    assert sentence in caught.value.message


def test_null_fields_count_as_missing(server: Running) -> None:
    fields = dict.fromkeys({*ImagesBody.model_fields} - {"prompt"})
    response = server.http.post("/v1/images/generations", json={"prompt": "a star", **fields})
    assert response.status_code == 200, response.text
    assert len(response.json()["data"]) == 1
    missing = server.http.post("/v1/images/generations", json={"prompt": None})
    assert missing.json()["error"]["message"] == "Missing prompt: give it"


def test_demo_model_draws_without_a_checkpoint() -> None:
    settings = Settings.load(environ={}, device="cpu", dtype="fp32")
    app = create_app(settings)
    with listening(app) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        until(lambda: app.state.context.mode_manager.state == "ready")
        response = client.images.generate(  # type: ignore[call-overload]
            model="demo", prompt="a star", size="64x64", extra_body={"num_inference_steps": 1}
        )
        assert response.data[0].b64_json
        assert [model.id for model in client.models.list()] == ["demo"]


def test_unknown_model_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="No model 'gpt-image-1' is served here: ask for"):
        client.images.generate(prompt="a star", model="gpt-image-1")


def test_wrong_key_is_an_openai_error(serve: StartServer) -> None:
    server = serve(api_keys="right")
    with _client(server, "wrong") as client, pytest.raises(openai.AuthenticationError):
        client.images.generate(prompt="a star")
    with _client(server, "right") as client:
        assert client.images.generate(prompt="a star").data


def test_url_response_needs_storage(serve: StartServer) -> None:
    server = serve(storage_provider="disabled")
    with _client(server) as client, pytest.raises(openai.BadRequestError, match="ask for b64_json"):
        client.images.generate(prompt="a star", response_format="url")


def test_failure_is_reported_in_the_stream(client: openai.OpenAI, server: Running) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    server.worker.before["finish"] = fail
    with pytest.raises(openai.APIError, match="log tells more"):
        list(client.images.generate(prompt="a star", stream=True))


def test_closing_a_stream_cancels_the_picture(client: openai.OpenAI, server: Running) -> None:
    stream = client.images.generate(
        prompt="a star", stream=True, partial_images=3, extra_body={"num_inference_steps": 40}
    )
    next(iter(stream))
    stream.close()
    server.until(lambda: server.report().cancelled or server.report().finished)
    assert server.report().cancelled == 1
