"""Input pictures of every kind: the right picture or a sentence, and nobody else waits."""

from __future__ import annotations

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
from PIL import Image

from tests.images.test_reading import BOMBS
from tests.server.conftest import LIMIT
from tests.server.hostile.conftest import PROMPTLY, Attacked
from tests.server.test_openai_edits import encoded, holed, picture, white

_MB = 10**6
FIELDS = {"prompt": "a star", "seed": "7", "num_inference_steps": "1"}
RED, BLUE = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue")


def _draw(
    server: Attacked, image: bytes, mask: bytes | None = None, route: str = "/generate", **fields: str
) -> httpx.Response:
    files = {"image": ("a", image)} | ({} if mask is None else {"mask": ("b", mask)})
    return httpx.post(f"{server.url}{route}", data=FIELDS | fields, files=files, timeout=LIMIT)


def _sentence(response: httpx.Response) -> str:
    body = response.json()
    return str(body["error"]["message"] if "error" in body else body["detail"])


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


CMYK = encoded(picture().convert("CMYK"), "JPEG", quality=100)
SAME = {  # a picture, and the plain picture that it must equal
    "an opaque alpha channel": (encoded(picture().convert("RGBA")), picture()),
    "grey": (encoded(picture().convert("L")), picture().convert("L").convert("RGB")),
    "black and white": (encoded(picture().convert("1")), picture().convert("1").convert("RGB")),
    "a palette": (encoded(picture().convert("P")), picture().convert("P").convert("RGB")),
    "CMYK": (CMYK, Image.open(io.BytesIO(CMYK)).convert("RGB")),
    "turned by Exif": (encoded(picture(64, 72).transpose(Image.Transpose.ROTATE_90), exif=_exif(6)), picture(64, 72)),
    "an animated GIF": (encoded(RED, "GIF", save_all=True, append_images=[BLUE]), RED),
    "an animated WebP": (encoded(RED, "WEBP", save_all=True, append_images=[BLUE], lossless=True), RED),
    "an animated PNG": (encoded(RED, save_all=True, append_images=[BLUE]), RED),
    "8192x8": (encoded(picture(8192, 8)), picture(8192, 8)),
}


@pytest.mark.parametrize("name", SAME)
def test_unusual_pictures_are_drawn_from_as_they_look(attacked: Attacked, name: str) -> None:
    data, plain = SAME[name]
    with attacked.watch() as health:
        response = _draw(attacked, data)
    assert response.status_code == 200, response.text
    assert response.content == _draw(attacked, encoded(plain)).content
    assert health.worst < PROMPTLY


DEEP = Image.fromarray(np.full((64, 64), 40_000, np.uint16))
REFUSED = {
    "16 bits": (encoded(DEEP), "it has more than 8 bits a channel; save it with 8 bits first"),
    "transparent parts": (encoded(holed(picture())), "it has transparent parts; fill its background first"),
    "1x1": (encoded(Image.new("RGB", (1, 1))), "The image has 1x1 pixels, which is no size to draw: give size"),
    "cut short": (encoded(picture())[:-2000], "it is damaged or cut short"),
    "a cut JPEG": (encoded(picture(), "JPEG")[:-300], "it is damaged or cut short"),
    "nothing": (b"", "it is not a PNG or JPEG or WEBP or BMP or GIF; give one"),
    "text": (b"a picture", "it is not a PNG or JPEG or WEBP or BMP or GIF; give one"),
    "an SVG": (b"<svg/>", "it is not a PNG or JPEG or WEBP or BMP or GIF; give one"),
    "9000x9000": (encoded(Image.new("1", (9000, 9000))), "Invalid image of 9000x9000 pixels: this server reads"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unusable_pictures_are_refused_with_a_sentence(attacked: Attacked, name: str) -> None:
    data, sentence = REFUSED[name]
    with attacked.watch() as health:
        response = _draw(attacked, data)
    assert response.status_code == 422, response.text[:300]
    assert sentence in _sentence(response)
    assert health.worst < PROMPTLY


MASKS = {
    "of another size": (encoded(white().resize((32, 64))), "The mask has 32x64 pixels and the image 64x64"),
    "black": (encoded(Image.new("L", (64, 64))), "The mask is black everywhere"),
    "16 bits": (encoded(DEEP), "Cannot use the mask: it has more than 8 bits a channel"),
    "transparent": (encoded(holed(RED)), "Cannot use the mask: it has transparent parts"),
    "cut short": (encoded(picture())[:-2000], "Cannot read the mask: it is damaged or cut short"),
    "text": (b"white", "Cannot read the mask: it is not a PNG"),
}


@pytest.mark.parametrize("name", MASKS)
def test_wrong_masks_are_refused_with_a_sentence(attacked: Attacked, name: str) -> None:
    mask, sentence = MASKS[name]
    response = _draw(attacked, encoded(picture()), mask)
    assert (response.status_code, response.json()["field"]) == (422, "mask"), response.text[:300]
    assert sentence in _sentence(response)


@pytest.mark.parametrize("route", ["/generate", "/v1/images/edits"])
@pytest.mark.parametrize("as_mask", [False, True])
def test_every_kind_of_bomb_takes_little_memory(attacked: Attacked, route: str, as_mask: bool) -> None:
    before = attacked.memory
    with attacked.watch() as health:
        for name, data in BOMBS.items():
            image, mask = (encoded(picture()), data) if as_mask else (data, None)
            response = _draw(attacked, image, mask, route, size="64x64")
            assert response.status_code in (200, 400, 413, 422), (name, response.text)
            assert response.status_code == 200 or len(_sentence(response)) < 300, (name, response.text)
    assert health.worst < PROMPTLY
    assert health.peak < before + 250 * _MB


def test_large_pictures_at_once_take_their_turns(attacked: Attacked) -> None:
    large = encoded(Image.new("RGBA", (4900, 4890)))
    before = attacked.memory
    with attacked.watch() as health, ThreadPoolExecutor(3) as clients:
        send = lambda _: _draw(attacked, large, large, "/v1/images/edits", size="64x64")  # noqa: E731 - for `map`
        assert {response.status_code for response in clients.map(send, range(3))} == {200}
    assert health.worst < PROMPTLY
    assert health.peak < before + 900 * _MB


def test_large_base64_is_decoded_off_the_event_loop(attacked: Attacked) -> None:
    body = b'{"prompt": "a star", "image": "%s"}' % base64.b64encode(bytes(20 * 2**20))
    headers = {"Content-Type": "application/json"}
    with attacked.watch() as health, ThreadPoolExecutor(3) as clients:
        send = lambda _: httpx.post(f"{attacked.url}/generate", content=body, headers=headers, timeout=LIMIT)  # noqa: E731 - for `map`
        assert {response.status_code for response in clients.map(send, range(3))} == {422}
    assert health.worst < PROMPTLY


@pytest.mark.parametrize("filler", [b"\r\n--", b"\r", b"-", b"\r\n--boundar\r\n"])
def test_a_form_full_of_partial_boundaries_is_refused(attacked: Attacked, filler: bytes) -> None:
    body = b'--boundary\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    body += filler * (16 * 2**20 // len(filler)) + b"\r\n--boundary--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=boundary"}
    with attacked.watch() as health:
        response = httpx.post(f"{attacked.url}/v1/images/edits", content=body, headers=headers, timeout=LIMIT)
    assert response.status_code == 400
    assert health.worst < PROMPTLY


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"num_inference_steps": 12.5}, "Invalid num_inference_steps 12.5"),
        ({"styles": [None]}, "Unknown field 'styles', which no installed plugin declares"),
        ({"denoising_strength": None}, "Unknown field 'denoising_strength'"),
        ({"url": "http://example.org", "auth": ""}, "Unknown field 'url'"),
        ({"strength": "much"}, "Invalid strength 'much'"),
        ({"strength": 1.5}, "Invalid strength 1.5: expected a number from 0 to 1"),
        ({"inpaint": {"fill": "sand"}}, "Invalid inpaint.fill 'sand'"),
        ({"outpaint": {"left": 10**9}}, "Invalid outpaint.left 1000000000"),
    ],
)
@pytest.mark.parametrize("route", ["/generate", "/v1/images/edits"])
def test_foreign_fields_are_refused_with_a_sentence(
    attacked: Attacked, route: str, fields: dict[str, object], sentence: str
) -> None:
    image = base64.b64encode(encoded(picture())).decode()
    body = {"prompt": "a star", "image": image, "mask": None, **fields}
    response = httpx.post(f"{attacked.url}{route}", json=body, timeout=LIMIT)
    if route != "/generate" and fields == {"denoising_strength": None}:
        assert response.status_code == 200, response.text  # a null counts as left out, as in OpenAI's API
        return
    assert response.status_code == (422 if route == "/generate" else 400), response.text
    assert sentence in _sentence(response)


def test_parts_of_json_have_the_limits_of_json(attacked: Attacked) -> None:
    for text in ("[" * 200_000, '{"a":' * 300 + "1" + "}" * 300, json.dumps({"styles": [1] * 20_000})):
        files: Any = {"image": encoded(picture()), "request": (None, text), "outpaint": (None, "{" + text)}
        with attacked.watch() as health:
            response = httpx.post(f"{attacked.url}/generate", files=files, timeout=LIMIT)
        assert response.status_code == 422, response.text[:300]
        assert health.worst < PROMPTLY
