"""POST /generate, and what holds for every route."""

from __future__ import annotations

import base64
import io
import socket
import time
from typing import Any

import pytest
from PIL import Image

from imagegen_core import GenerateRequest, Job, OutOfMemoryError, read_recipe
from tests.engine.faults import Gate
from tests.server.conftest import LIMIT, Running, StartServer


def _image(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def test_the_picture_is_the_one_that_the_worker_draws(server: Running, tiny_worker: Any) -> None:
    answer = server.draw()
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    alone, seed = tiny_worker.run_job(Job(req=GenerateRequest(prompt="a star", size="64x64", seed=7)))
    assert answer.content == alone
    headers = {name: answer.headers[name] for name in ("X-Seed", "X-SuperRes", "X-Mode", "Cache-Control")}
    assert headers == {"X-Seed": str(seed), "X-SuperRes": "0", "X-Mode": "default", "Cache-Control": "no-store"}


def test_a_random_seed_is_told_and_draws_the_same_again(server: Running) -> None:
    first = server.draw(seed=None)
    assert server.draw(seed=int(first.headers["X-Seed"])).content == first.content


def test_the_picture_is_stored_under_the_key_told(server: Running) -> None:
    answer = server.draw()
    assert server.http.get(f"/storage/{answer.headers['X-LCM-Image-Key']}").content == answer.content


def test_upscaling_is_told_in_headers_and_kept_in_the_recipe(server: Running) -> None:
    answer = server.draw(superres=True, superres_magnitude=2)
    assert _image(answer.content).size == (256, 256)
    told = {name: value for name, value in answer.headers.items() if name.startswith("x-sr-")}
    name = told.pop("x-sr-model")
    assert told == {"x-sr-passes": "2", "x-sr-scale-per-pass": "2", "x-sr-format": "png"}
    assert answer.headers["X-SuperRes"] == "1"
    assert read_recipe(answer.content).upscalings[0].upscaler == name


def test_an_upscaled_picture_can_be_a_jpeg_with_its_recipe(server: Running) -> None:
    answer = server.draw(superres=True, superres_format="jpeg", superres_quality=80)
    assert answer.headers["content-type"] == "image/jpeg"
    image = _image(answer.content)
    assert (image.format, image.size) == ("JPEG", (128, 128))
    comment = image.getexif().get_ifd(0x8769)[0x9286]
    assert "Seed: 7" in comment[8:].decode("utf-16-be")


def test_json_is_answered_to_who_takes_it(server: Running) -> None:
    plain = server.draw()
    told = server.http.post(
        "/generate", json={"prompt": "a star", "size": "64x64", "seed": 7}, headers={"Accept": "application/json"}
    ).json()
    assert base64.b64decode(told["image"]) == plain.content
    assert (told["seed"], told["format"], told["mode"], told["superres"]) == (7, "png", "default", None)


def test_unknown_fields_are_ignored(server: Running) -> None:
    assert server.draw(cfg="?", nonsense=[1]).content == server.draw().content


def test_defaults_fill_what_a_request_leaves_out_and_nothing_else(serve: StartServer) -> None:
    server = serve(default_size="72x64", default_steps=2, default_guidance=0.5)
    recipe = read_recipe(server.http.post("/generate", json={"prompt": "a star"}).content)
    assert (recipe.width, recipe.height, recipe.steps, recipe.guidance_scale) == (72, 64, 2, 0.5)
    asked = server.draw(size="64x72", num_inference_steps=3, guidance_scale=1.5)
    recipe = read_recipe(asked.content)
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
def test_wrong_input_is_a_422_that_names_the_field(
    server: Running, fields: dict[str, Any], field: str, sentence: str
) -> None:
    answer = server.draw(**fields)
    assert answer.status_code == 422
    assert answer.json()["field"] == field
    assert sentence in answer.json()["detail"]


def test_what_is_no_json_is_said_to_be_none(server: Running) -> None:
    answer = server.http.post("/generate", content=b'{"prompt', headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["type"]) == (422, "invalid_request")
    assert answer.json()["detail"].startswith("The body is no JSON")


def test_a_route_that_is_not_there_and_a_method_that_is_not_taken(server: Running) -> None:
    assert server.http.get("/nix").json()["detail"] == "There is no such route: see /docs"
    assert server.http.get("/generate").status_code == 405


def test_a_full_queue_refuses_at_once_and_says_when_to_come_again(serve: StartServer) -> None:
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


def test_a_deadline_is_a_504(serve: StartServer) -> None:
    server = serve(default_timeout=0.05)
    server.worker.before["step"] = lambda *_: time.sleep(0.02)
    answer = server.draw(num_inference_steps=20)
    assert (answer.status_code, answer.json()["type"]) == (504, "deadline")
    assert "allow more time" in answer.json()["detail"]


def test_who_hangs_up_is_drawn_for_no_longer(server: Running) -> None:
    gate = Gate(shut=True)
    server.worker.before["step"] = lambda *_: gate()
    body = b'{"prompt": "a star", "size": "64x64", "num_inference_steps": 40}'
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as line:
        line.sendall(
            b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body
        )
        assert gate.reached.wait(LIMIT)
    server.until(lambda: server.report().cancelled)
    gate.open()
    server.until(lambda: server.report().running == 0)
    assert sum(server.report().steps.values()) < 40


def test_memory_that_does_not_suffice_comes_with_advice(server: Running) -> None:
    def refuse(*_: Any) -> None:
        raise OutOfMemoryError("The memory did not take it: ask for a smaller size")

    server.worker.before["begin"] = refuse
    answer = server.draw()
    assert (answer.status_code, answer.json()["type"]) == (507, "out_of_memory")
    assert "ask for a smaller size" in answer.json()["detail"]


def test_an_error_that_is_not_ours_gives_nothing_away(server: Running) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("secret")

    server.worker.before["begin"] = fail
    answer = server.draw()
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "log" in answer.json()["detail"]
    del server.worker.before["begin"]
    assert server.draw().status_code == 200


def test_every_answer_has_the_requests_id(server: Running) -> None:
    assert server.http.get("/health", headers={"X-Request-ID": "mine-1"}).headers["X-Request-ID"] == "mine-1"
    assert server.http.get("/nix", headers={"X-Request-ID": "no good"}).headers["X-Request-ID"] != "no good"


def test_an_allowed_origin_may_read_the_headers(serve: StartServer) -> None:
    server = serve(cors_origins="http://elsewhere")
    answer = server.http.get("/health", headers={"Origin": "http://elsewhere"})
    assert answer.headers["access-control-allow-origin"] == "http://elsewhere"
    exposed = answer.headers["access-control-expose-headers"]
    assert all(name in exposed for name in ("X-Seed", "X-SR-Model", "X-LCM-Image-Key", "X-Mode", "X-SuperRes"))


def test_a_body_that_is_too_large_is_refused_unread(serve: StartServer) -> None:
    server = serve(max_body_bytes=2000)
    answer = server.draw(prompt="x" * 3000)
    assert (answer.status_code, answer.json()["type"]) == (413, "too_large")
    chunks = (b" " * 1000 for _ in range(5))  # without a Content-Length
    headers = {"Content-Type": "application/json"}
    assert server.http.post("/generate", content=chunks, headers=headers).status_code == 413


def _post(server: Running) -> str:
    answer = server.http.post("/v1/jobs", json={"prompt": "a star", "size": "64x64"})
    assert answer.status_code == 202
    return str(answer.json()["id"])
