"""OpenAI's edits and variations, used by the unmodified official client, and with JSON."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image

from imagegen_core import GenerateRequest, Job, read_recipe
from imagegen_core.request import Size
from imagegen_core.server.openai.sizes import fitting_size
from tests.server.conftest import Running, StartServer

SHORT: dict[str, Any] = {"seed": 7, "num_inference_steps": 2}


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def picture(width: int = 64, height: int = 64) -> Image.Image:
    noise = np.random.default_rng(5).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def holed(image: Image.Image, box: tuple[int, int, int, int] = (0, 0, 32, 64)) -> Image.Image:
    """Return the image with a transparent part, as OpenAI's masks have it."""
    image = image.convert("RGBA")
    image.paste((0, 0, 0, 0), box)
    return image


def white(box: tuple[int, int, int, int] = (0, 0, 32, 64)) -> Image.Image:
    """Return this project's mask for the same part."""
    mask = Image.new("L", (64, 64))
    mask.paste(255, box)
    return mask


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def drawn(response: Any) -> bytes:
    """Return the only picture of a response."""
    (datum,) = response.data
    return base64.b64decode(datum.b64_json)


def expected(worker: Any, **fields: Any) -> bytes:
    """Draw without a server."""
    data, _ = worker.run_job(Job(req=GenerateRequest(prompt="a star", **SHORT | fields)))
    return bytes(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("as_list", [False, True])
def test_an_edit_draws_from_the_picture(client: openai.OpenAI, tiny_worker: Any, kind: str, as_list: bool) -> None:
    data = encoded(picture(), kind)  # bare bytes arrive as application/octet-stream, named "upload"
    response = client.images.edit(image=[data] if as_list else data, prompt="a star", extra_body=SHORT)
    assert drawn(response) == expected(tiny_worker, image=data)
    assert response.size == "64x64"


def test_numbers_arrive_as_text_and_objects_in_brackets(client: openai.OpenAI, tiny_worker: Any) -> None:
    more = {
        "strength": 0.5,
        "guidance_scale": 2.5,
        "outpaint": {"left": 16},
        "inpaint": {"blur": 2.0},
        "negative_prompt": "",
    }
    own = {"style_lora": {"style": None, "level": 0}}
    response = client.images.edit(
        image=("a.png", encoded(picture()), "image/png"), prompt="a star", n=2, user="me", extra_body=SHORT | more | own
    )
    assert response.data is not None
    pictures = [base64.b64decode(str(each.b64_json)) for each in response.data]
    assert [read_recipe(each).seed for each in pictures] == [7, 8]
    assert pictures[0] == expected(tiny_worker, image=picture(), **more)


def test_transparent_parts_of_a_mask_are_drawn_again(client: openai.OpenAI, tiny_worker: Any) -> None:
    mask = holed(Image.new("RGB", (64, 64), "red"))
    mask.putpixel((40, 40), (0, 0, 0, 1))  # nearly transparent is not transparent
    response = client.images.edit(
        image=encoded(picture()), mask=encoded(mask), prompt="a star", size="64x64", extra_body=SHORT
    )
    result = drawn(response)
    assert result == expected(tiny_worker, image=picture(), mask=white())
    kept = np.asarray(Image.open(io.BytesIO(result)))[:, 32:]
    assert np.array_equal(kept, np.asarray(picture())[:, 32:])


def test_transparent_parts_of_the_picture_are_its_mask(client: openai.OpenAI, tiny_worker: Any) -> None:
    response = client.images.edit(image=encoded(holed(picture())), prompt="a star", extra_body=SHORT)
    on_white = picture()
    on_white.paste("white", (0, 0, 32, 64))
    assert drawn(response) == expected(tiny_worker, image=on_white, mask=white())
    both = client.images.edit(
        image=encoded(holed(picture())), mask=encoded(holed(picture())), prompt="a star", extra_body=SHORT
    )
    assert drawn(both) == drawn(response)


def test_an_opaque_alpha_channel_changes_nothing(client: openai.OpenAI, tiny_worker: Any) -> None:
    response = client.images.edit(image=encoded(picture().convert("RGBA")), prompt="a star", extra_body=SHORT)
    assert drawn(response) == expected(tiny_worker, image=picture())


WRONG: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "a mask without alpha": (
        {"mask": encoded(white())},
        "mask",
        "invalid_mask_image_format",
        "The mask has no alpha channel",
    ),
    "an opaque mask": (
        {"mask": encoded(picture().convert("RGBA"))},
        "mask",
        "invalid_request",
        "The mask has no fully transparent part",
    ),
    "a mask of another size": (
        {"mask": encoded(holed(picture(64, 72)))},
        "mask",
        "invalid_request",
        "The mask has 64x72 pixels and the image 64x64",
    ),
    "several pictures": (
        {"image": [encoded(picture())] * 3},
        "image",
        "invalid_request",
        "Invalid image with 3 pictures: this server draws from one picture; send one",
    ),
    "no picture": ({"image": []}, "image", "invalid_request", "Missing image: give it"),
    "half-transparent parts outside the mask": (
        {"image": encoded(Image.new("RGBA", (64, 64), (1, 2, 3, 128)))},
        "image",
        "invalid_request",
        "half-transparent parts outside the mask: fill its background first",
    ),
    "no picture's bytes": ({"image": b"GIF8"}, "image", "invalid_request", "it is not a PNG or JPEG"),
    "a transparent background": (
        {"background": "transparent"},
        "background",
        "invalid_request",
        "Invalid background 'transparent': expected auto or opaque",
    ),
    "half a step": (
        {"extra_body": {"num_inference_steps": 12.5}},
        "num_inference_steps",
        "invalid_request",
        "Invalid num_inference_steps '12.5'",
    ),
    "an unknown field": ({"extra_body": {"steps": 3}}, "steps", "invalid_request", "Unknown field 'steps'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_an_openai_error(client: openai.OpenAI, name: str) -> None:
    fields, param, code, sentence = WRONG[name]
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.edit(**{"image": encoded(picture()), "prompt": "a star"} | fields)
    assert (caught.value.param, caught.value.code, caught.value.type) == (param, code, "invalid_request_error")
    assert sentence in caught.value.message


def test_an_edit_streams_its_own_events(client: openai.OpenAI, tiny_worker: Any) -> None:
    stream = client.images.edit(
        image=encoded(picture()),
        prompt="a star",
        stream=True,
        partial_images=2,
        extra_body={"seed": 7, "num_inference_steps": 5, "strength": 1.0},
    )
    events = list(stream)
    assert [event.type for event in events] == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]
    assert base64.b64decode(events[-1].b64_json) == expected(
        tiny_worker, image=picture(), num_inference_steps=5, strength=1.0
    )


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_a_variation_needs_no_prompt(client: openai.OpenAI, server: Running) -> None:
    response = client.images.create_variation(image=encoded(picture()), n=2, size="256x256", extra_body=SHORT)
    assert response.data is not None
    pictures = [base64.b64decode(str(each.b64_json)) for each in response.data]
    assert [(recipe.seed, recipe.prompt) for recipe in map(read_recipe, pictures)] == [(7, ""), (8, "")]
    assert Image.open(io.BytesIO(pictures[0])).size == (256, 256)


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_a_variation_takes_no_mask(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="Unknown field 'mask' on this route: /v1/images/edits takes it"):
        client.images.create_variation(image=encoded(picture()), extra_body={"mask": "x"})


def test_pictures_are_returned_as_urls_and_in_other_formats(client: openai.OpenAI, server: Running) -> None:
    response = client.images.edit(
        image=encoded(picture()),
        prompt="a star",
        response_format="url",
        output_format="jpeg",
        quality="high",
        input_fidelity="high",
        extra_body=SHORT,
    )
    assert response.data is not None
    fetched = server.http.get(str(response.data[0].url))
    assert Image.open(io.BytesIO(fetched.content)).format == "JPEG"


@pytest.mark.parametrize("kind", ["text", "data URL", "images"])
def test_an_edit_in_json(server: Running, tiny_worker: Any, kind: str) -> None:
    text = base64.b64encode(encoded(picture())).decode()
    url = f"data:image/png;base64,{text}"
    image: dict[str, Any] = {
        "text": {"image": text},
        "data URL": {"image": url},
        "images": {"images": [{"image_url": url}]},
    }[kind]
    mask = base64.b64encode(encoded(holed(picture()))).decode()
    body = {"prompt": "a star", "size": None, **SHORT, **image, "mask": {"image_url": f"data:image/png;base64,{mask}"}}
    response = server.http.post("/v1/images/edits", json=body)
    assert response.status_code == 200, response.text
    assert base64.b64decode(response.json()["data"][0]["b64_json"]) == expected(
        tiny_worker, image=picture(), mask=white()
    )


def test_generations_name_the_route_for_pictures(server: Running) -> None:
    response = server.http.post("/v1/images/generations", json={"prompt": "a star", "strength": 0.5})
    assert response.status_code == 400
    assert response.json()["error"]["message"] == (
        "Unknown field 'strength' on this route: /v1/images/edits takes it, or leave it out"
    )


def test_generations_take_the_fields_of_the_request(client: openai.OpenAI, tiny_worker: Any) -> None:
    more = {"variation": {"seed": 3, "strength": 0.4}, "hires": {"scale": 1.5}, "clip_skip": 1}
    response = client.images.generate(prompt="a star", size="64x64", extra_body=SHORT | more)
    assert drawn(response) == expected(tiny_worker, size="64x64", **more)


def test_a_large_picture_is_drawn_at_about_the_models_size(client: openai.OpenAI, tiny_worker: Any) -> None:
    large = picture(160, 80)
    response = client.images.edit(image=encoded(large), prompt="a star", size="auto", extra_body=SHORT)
    assert (tiny_worker.native_size, response.size) == ("64x64", "88x48")
    assert drawn(response) == expected(tiny_worker, image=large, size="88x48")
    own = client.images.edit(image=encoded(picture(24, 40)), prompt="a star", extra_body=SHORT)
    assert own.size == "24x40"


@pytest.mark.parametrize(
    ("image", "size"),
    [((4000, 3000), "592x440"), ((512, 512), None), ((8192, 8), None), ((1, 1), None), ((100_000, 8), "57240x8")],
)
def test_size_of_a_large_picture(image: tuple[int, int], size: str | None) -> None:
    assert fitting_size(image, Size(512, 512)) == size


def test_aliases_are_models(serve: StartServer) -> None:
    server = serve(model_aliases=("gpt-image-1", "dall-e-2"))
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        own, *aliases = client.models.list().data
        assert [model.id for model in aliases] == ["gpt-image-1", "dall-e-2"]
        assert client.models.retrieve("dall-e-2").to_dict()["root"] == own.id
        for name in ("gpt-image-1", "dall-e-2"):
            assert client.images.generate(prompt="a star", model=name, extra_body=SHORT).data
            assert client.images.edit(image=encoded(picture()), prompt="a star", model=name, extra_body=SHORT).data
        with pytest.raises(openai.NotFoundError, match="the setting IMAGEGEN_MODEL_ALIASES adds a name"):
            client.images.edit(image=encoded(picture()), prompt="a star", model="gpt-image-2")
