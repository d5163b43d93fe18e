""" "Extras" enlarge pictures."""

from __future__ import annotations

import base64
from typing import Any

import pytest
import webuiapi
from PIL import Image

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
