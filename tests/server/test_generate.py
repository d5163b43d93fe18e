"""POST /generate, and the behaviour that all routes share."""

from __future__ import annotations

import base64
import io
import socket
import time
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imagegen_core import GenerateRequest, Job, OutOfMemoryError, read_recipe
from imagegen_core.server.headers import header_value
from tests.engine.faults import Gate
from tests.server.conftest import LIMIT, Running, StartServer


def _image(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def test_response_is_the_workers_picture(server: Running, tiny_worker: Any) -> None:
    response = server.draw()
    assert response.status_code == 200
    assert response.headers["content-type"] == "image/png"
    expected, seed = tiny_worker.run_job(Job(req=GenerateRequest(prompt="a star", size="64x64", seed=7)))
    assert response.content == expected
    headers = {name: response.headers[name] for name in ("X-Seed", "X-SuperRes", "X-Mode", "Cache-Control")}
    assert headers == {"X-Seed": str(seed), "X-SuperRes": "0", "X-Mode": "default", "Cache-Control": "no-store"}


def test_random_seed_is_returned_and_redraws_the_picture(server: Running) -> None:
    first = server.draw(seed=None)
    assert server.draw(seed=int(first.headers["X-Seed"])).content == first.content


def test_picture_is_stored_under_the_returned_key(server: Running) -> None:
    response = server.draw()
    assert server.http.get(f"/storage/{response.headers['X-LCM-Image-Key']}").content == response.content


def test_upscaling_is_described_in_headers_and_recipe(server: Running) -> None:
    response = server.draw(superres=True, superres_magnitude=2)
    assert _image(response.content).size == (256, 256)
    headers = {name: value for name, value in response.headers.items() if name.startswith("x-sr-")}
    name = headers.pop("x-sr-model")
    assert headers == {"x-sr-passes": "2", "x-sr-scale-per-pass": "2", "x-sr-format": "png"}
    assert response.headers["X-SuperRes"] == "1"
    assert read_recipe(response.content).upscalings[0].upscaler == name


def test_an_upscaled_picture_can_be_a_jpeg_with_its_recipe(server: Running) -> None:
    response = server.draw(superres=True, superres_format="jpeg", superres_quality=80)
    assert response.headers["content-type"] == "image/jpeg"
    image = _image(response.content)
    assert (image.format, image.size) == ("JPEG", (128, 128))
    comment = image.getexif().get_ifd(0x8769)[0x9286]
    assert "Seed: 7" in comment[8:].decode("utf-16-be")


def test_accept_header_selects_a_json_response(server: Running) -> None:
    picture = server.draw()
    result = server.http.post(
        "/generate", json={"prompt": "a star", "size": "64x64", "seed": 7}, headers={"Accept": "application/json"}
    ).json()
    assert base64.b64decode(result["image"]) == picture.content
    assert (result["seed"], result["format"], result["mode"], result["superres"]) == (7, "png", "default", None)


@pytest.mark.parametrize("field", ["cfg", "loras", "_loras", "parameters", "_parameters"])
def test_a_field_that_nobody_declares_is_refused(server: Running, field: str) -> None:
    response = server.draw(**{field: [{"path": "/etc/passwd"}]})
    assert (response.status_code, response.json()["field"]) == (422, field)
    assert response.json()["detail"].startswith(f"Unknown field '{field}', which no installed plugin declares")


def test_defaults_apply_to_missing_fields_only(serve: StartServer) -> None:
    server = serve(default_size="72x64", default_steps=2, default_guidance=0.5)
    recipe = read_recipe(server.http.post("/generate", json={"prompt": "a star"}).content)
    assert (recipe.width, recipe.height, recipe.steps, recipe.guidance_scale) == (72, 64, 2, 0.5)
    response = server.draw(size="64x72", num_inference_steps=3, guidance_scale=1.5)
    recipe = read_recipe(response.content)
    assert (recipe.width, recipe.height, recipe.steps, recipe.guidance_scale) == (64, 72, 3, 1.5)


@pytest.mark.parametrize(
    ("fields", "field", "sentence"),
    [
        ({"size": "12by7"}, "size", "Invalid size '12by7': expected WIDTHxHEIGHT in pixels, multiples of 8"),
        ({"size": "8192x8192"}, "size", "Invalid size 8192x8192: this server draws up to 4194304 pixels, such as 2048"),
        ({"num_inference_steps": 0}, "num_inference_steps", "expected a whole number from 1"),
        (
            {"num_inference_steps": 151},
            "num_inference_steps",
            "Invalid num_inference_steps 151: this server takes 1 to",
        ),
        ({"num_inference_steps": "x"}, "num_inference_steps", "Invalid num_inference_steps 'x': input should be"),
        ({"guidance_scale": -1}, "guidance_scale", "expected a number from 0"),
        ({"seed": -1}, "seed", "Invalid seed -1: expected a whole number from 0"),
        ({"num_inference_steps": 51}, "num_inference_steps", "the LCM scheduler takes 1 to 50"),
        ({"schedule": "nix"}, "schedule", "Unknown schedule 'nix': expected one of Automatic, Uniform, Karras"),
        ({"schedule": "Karras"}, "schedule", "Invalid schedule 'Karras': the LCM scheduler takes Automatic, Uniform"),
        ({"eta": 0.5}, "eta", "Invalid eta 0.5: the LCM scheduler takes none; leave it out, or name one of DDIM, TCD"),
        ({"s_churn": -1}, "s_churn", "Invalid s_churn -1.0: expected a number from 0"),
        ({"guidance_rescale": 1.5}, "guidance_rescale", "expected a number from 0 to 1"),
        ({"scheduler": "nix"}, "scheduler", "Unknown scheduler 'nix': expected one of LCM"),
        ({"style_lora": {"style": "nix", "level": 1}}, "style_lora.style", "Unknown style 'nix': "),
        ({"clip_skip": 99}, "clip_skip", "this checkpoint's text encoder has"),
        ({"superres_magnitude": 4}, "superres_magnitude", "less than or equal to 3"),
        ({"superres": True, "superres_magnitude": 3, "size": "1024x1024"}, "magnitude", "Cannot upscale 1024x1024 to"),
        ({"mode": "fast"}, "mode", "Unknown mode 'fast': expected default"),
        ({"prompt": None}, "prompt", "Invalid prompt None"),
    ],
)
def test_invalid_input_is_a_422_with_the_field(
    server: Running, fields: dict[str, Any], field: str, sentence: str
) -> None:
    response = server.draw(**fields)
    assert response.status_code == 422
    assert response.json()["field"] == field
    assert sentence in response.json()["detail"]


def test_invalid_json_is_a_422(server: Running) -> None:
    response = server.http.post("/generate", content=b'{"prompt', headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["type"]) == (422, "invalid_request")
    assert response.json()["detail"].startswith("The body is not JSON")


def test_unknown_routes_and_methods_are_refused(server: Running) -> None:
    assert server.http.get("/nix").json()["detail"] == "There is no such route: see /docs"
    assert server.http.get("/generate").status_code == 405


def test_full_queue_is_a_429_with_retry_after(serve: StartServer) -> None:
    server = serve(queue_limit=1)
    gate = Gate(shut=True)
    server.worker.before["step"] = server.worker.before["trial"] = lambda *_: gate()
    _post(server)
    assert gate.reached.wait(LIMIT)
    _post(server)
    refused = server.draw()
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) >= 1
    assert "requests wait already" in refused.json()["detail"]
    gate.open()


def test_missed_deadline_is_a_504(serve: StartServer) -> None:
    server = serve(default_timeout=0.05)
    server.worker.before["step"] = lambda *_: time.sleep(0.02)
    response = server.draw(num_inference_steps=20)
    assert (response.status_code, response.json()["type"]) == (504, "deadline")
    assert "allow more time" in response.json()["detail"]


def test_disconnect_cancels_the_picture(server: Running) -> None:
    gate = Gate(shut=True)
    server.worker.before["step"] = lambda *_: gate()
    body = b'{"prompt": "a star", "size": "64x64", "num_inference_steps": 40}'
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as connection:
        connection.sendall(
            b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body
        )
        assert gate.reached.wait(LIMIT)
    server.until(lambda: server.report().cancelled)
    gate.open()
    server.until(lambda: server.report().running == 0)
    assert sum(server.report().steps.values()) < 40


def test_out_of_memory_is_a_507_with_advice(server: Running) -> None:
    def refuse(*_: Any) -> None:
        raise OutOfMemoryError("The memory did not take it: ask for a smaller size")

    server.worker.before["begin"] = refuse
    response = server.draw()
    assert (response.status_code, response.json()["type"]) == (507, "out_of_memory")
    assert "ask for a smaller size" in response.json()["detail"]


def test_unexpected_errors_do_not_reveal_details(server: Running) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("secret")

    server.worker.before["begin"] = fail
    response = server.draw()
    assert response.status_code == 500
    assert "secret" not in response.text
    assert "log" in response.json()["detail"]
    del server.worker.before["begin"]
    assert server.draw().status_code == 200


def test_every_response_has_the_request_id(server: Running) -> None:
    assert server.http.get("/health", headers={"X-Request-ID": "mine-1"}).headers["X-Request-ID"] == "mine-1"
    assert server.http.get("/nix", headers={"X-Request-ID": "no good"}).headers["X-Request-ID"] != "no good"


def test_an_allowed_origin_may_read_the_headers(serve: StartServer) -> None:
    server = serve(cors_origins="http://elsewhere")
    response = server.http.get("/health", headers={"Origin": "http://elsewhere"})
    assert response.headers["access-control-allow-origin"] == "http://elsewhere"
    exposed = response.headers["access-control-expose-headers"]
    assert all(name in exposed for name in ("X-Seed", "X-SR-Model", "X-LCM-Image-Key", "X-Mode", "X-SuperRes"))


def test_too_large_bodies_are_refused_unread(serve: StartServer) -> None:
    server = serve(max_body_bytes=2000)
    response = server.draw(prompt="x" * 3000)
    assert (response.status_code, response.json()["type"]) == (413, "too_large")
    chunks = (b" " * 1000 for _ in range(5))  # without a Content-Length
    headers = {"Content-Type": "application/json"}
    assert server.http.post("/generate", content=chunks, headers=headers).status_code == 413


def _post(server: Running) -> str:
    response = server.http.post("/v1/jobs", json={"prompt": "a star", "size": "64x64"})
    assert response.status_code == 202
    return str(response.json()["id"])


@settings(deadline=None)
@given(st.text())
def test_any_text_can_be_read_back_from_a_header(text: str) -> None:
    value = header_value(text)
    assert value.isascii()
    assert value.isprintable()
    assert unquote(value) == text.encode("utf-8", "replace").decode()


TOO_MUCH_OF_THE_SECOND_STAGE: dict[str, tuple[dict[str, Any], str, str]] = {
    "size": ({"size": "512x512"}, "hires.size", "Invalid hires.size 512x512: this server draws up to 16384 pixels"),
    "scale": ({"scale": 4}, "hires.scale", "Invalid hires.scale 4, which makes 256x256: this server draws up to 16384"),
    "steps": ({"scale": 1.5, "steps": 21}, "hires.steps", "Invalid hires.steps 21: this server takes 1 to 20"),
    "sampler": ({"scale": 1.5, "scheduler": "Nile"}, "hires.scheduler", "Nile"),
    "schedule": ({"scale": 1.5, "schedule": "Nile"}, "hires.schedule", "Invalid hires.schedule 'Nile'"),
}


@pytest.mark.parametrize(
    ("hires", "field", "sentence"), TOO_MUCH_OF_THE_SECOND_STAGE.values(), ids=TOO_MUCH_OF_THE_SECOND_STAGE
)
def test_errors_of_the_second_stage_name_its_options(
    serve: StartServer, hires: dict[str, Any], field: str, sentence: str
) -> None:
    response = serve(max_pixels=128 * 128, max_steps=20).draw(hires=hires)
    assert response.status_code == 422, response.text
    assert response.json()["field"] == field
    assert sentence in response.json()["detail"]
