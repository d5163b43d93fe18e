""" "Extras" enlarge pictures."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
import webuiapi
from PIL import Image

from imagegen_core.images.png import encode_png
from tests.server.a1111.conftest import base64_of, pixels_of
from tests.server.conftest import Running


def test_extras_enlarge_with_an_upscaler_of_scale_1(client: webuiapi.WebUIApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagegen_core.images.upscaling.Lanczos.scale", 1)
    image = Image.new("RGB", (20, 10), "red")
    assert client.extra_single_image(image, upscaling_resize=3).image.size == (60, 30)


def test_extras_enlarge_by_any_factor(client: webuiapi.WebUIApi) -> None:
    image = Image.new("RGB", (20, 10), "red")
    name = client.get_upscalers()[1]["name"]
    assert client.extra_single_image(image, upscaling_resize=3, upscaler_1=name).image.size == (60, 30)
    assert client.extra_single_image(image, upscaling_resize=1.5).image.size == (30, 15)
    cropped = client.extra_single_image(image, resize_mode=1, upscaling_resize_w=50, upscaling_resize_h=50)
    assert cropped.image.size == (50, 50)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"gfpgan_visibility": 1}, "gfpgan_visibility=1 is nothing this server does"),
        ({"upscaler_1": "/etc/passwd.pth"}, "Unknown upscaler '/etc/passwd.pth'"),
        ({"upscaling_resize": 9}, "less than or equal to 8"),
        ({"resize_mode": 1, "upscaling_resize_w": 9999, "upscaling_resize_h": 9999}, "24.0 million pixels allowed"),
    ],
)
def test_extras_refuse_unsupported_fields(client: webuiapi.WebUIApi, fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RuntimeError) as caught:
        client.extra_single_image(Image.new("RGB", (20, 10), "red"), **fields)
    assert sentence in caught.value.args[1]


def test_png_info_reads_a_pictures_text(client: webuiapi.WebUIApi, server: Running) -> None:
    picture = server.draw().content
    info = server.http.post("/sdapi/v1/png-info", json={"image": base64.b64encode(picture).decode()}).json()
    assert "Seed: 7" in info["info"]
    assert "imagegen" in info["items"]


def extras(server: Running, route: str, **fields: Any) -> Any:
    response = server.http.post(f"/sdapi/v1/{route}", json=fields)
    assert response.status_code == 200, response.text
    return response.json()


def test_a_second_upscaler_is_blended_over_the_first(shared_server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def enlarge_to(_: bytes, wanted: tuple[int, int], name: str, **__: Any) -> bytes:
        return encode_png(np.full((wanted[1], wanted[0], 3), {"lanczos": 100, "bright": 200}[name], np.uint8))

    monkeypatch.setattr(shared_server.app.state.context.upscalers, "enlarge_to", enlarge_to)
    body = {"image": base64_of(Image.new("RGB", (4, 2))), "upscaler_1": "Lanczos", "upscaler_2": "bright"}
    for share, level in ((0.0, 100), (0.25, 125), (1.0, 200)):
        answer = extras(shared_server, "extra-single-image", **body, extras_upscaler_2_visibility=share)
        assert np.unique(pixels_of(answer["image"])) == level


def test_a_batch_is_enlarged_in_order(client: webuiapi.WebUIApi) -> None:
    images = [Image.new("RGB", (20, 10), "red"), Image.new("RGB", (10, 20), "blue")]
    result = client.extra_batch_images(images, upscaling_resize=2)
    assert [(image.size, image.getpixel((0, 0))) for image in result.images] == [
        ((40, 20), (255, 0, 0)),
        ((20, 40), (0, 0, 255)),
    ]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"imageList": []}, "Invalid imageList []"),
        ({"imageList": [{"name": "a"}]}, "Missing imageList.0.data"),
        ({"imageList": [{"data": "aGVsbG8=", "name": "a"}] * 17}, "at most 16 items"),
        ({"imageList": [{"data": "aGVsbG8=", "name": "a"}]}, "it is not a PNG"),
        ({"imageList": [{"data": "aGVsbG8="}], "codeformer_visibility": 0.5}, "codeformer_visibility=0.5 is nothing"),
    ],
)
def test_wrong_batches_are_refused(shared_server: Running, fields: dict[str, Any], sentence: str) -> None:
    response = shared_server.http.post("/sdapi/v1/extra-batch-images", json=fields)
    assert response.status_code == 422
    assert sentence in response.json()["detail"]


def test_nulls_and_fractions_of_extras_are_read_as_by_a1111(shared_server: Running) -> None:
    body = {"image": base64_of(Image.new("RGB", (4, 2))), "upscaler_1": None, "resize_mode": 1.0}
    answer = extras(shared_server, "extra-single-image", **body, upscaling_resize_w=8.5, upscaling_resize_h=4)
    assert pixels_of(answer["image"]).shape == (4, 8, 3)
