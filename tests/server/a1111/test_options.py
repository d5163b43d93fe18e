"""A1111's options, separate for each client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import webuiapi

from tests.server.a1111.conftest import Poster, client_of
from tests.server.conftest import Running, StartServer


def test_options_apply_to_later_pictures(client: webuiapi.WebUIApi) -> None:
    client.set_options({"CLIP_stop_at_last_layers": 2})
    assert client.get_options()["CLIP_stop_at_last_layers"] == 2
    skipped = client.txt2img(prompt="a star", seed=7, width=64, height=64, cfg_scale=1)
    client.set_options({"CLIP_stop_at_last_layers": 1})
    plain = client.txt2img(prompt="a star", seed=7, width=64, height=64, cfg_scale=1)
    assert skipped.image.tobytes() != plain.image.tobytes()


def test_options_accept_their_current_values(server: Running) -> None:
    options = server.http.get("/sdapi/v1/options").json()
    assert server.http.post("/sdapi/v1/options", json=options).status_code == 200
    assert server.http.get("/sdapi/v1/options").json() == options
    a1111_options = {
        "sd_checkpoint_hash": "6ce0161689",
        "live_previews_enable": False,
        "eta_ancestral": 1.0,
        "sd_vae": "None",
    }
    assert server.http.post("/sdapi/v1/options", json=a1111_options).status_code == 200


def test_invalid_checkpoints_are_refused_with_a_short_reason(server: Running) -> None:
    for value in ([], ["x"], {}, 7, 1.5, None, "", True, "x" * 9999, "other [abc]", "\U0001f600"):
        for response in (
            server.http.post("/sdapi/v1/options", json={"sd_model_checkpoint": value}),
            server.http.post("/sdapi/v1/txt2img", json={"override_settings": {"sd_model_checkpoint": value}}),
        ):
            assert response.status_code == 422, value
            assert response.json()["detail"].startswith("Invalid sd_model_checkpoint ")
            assert len(response.json()["detail"]) < 200


def test_a_checkpoint_is_found_by_each_of_its_names(server: Running) -> None:
    (model,) = server.http.get("/sdapi/v1/sd-models").json()
    path = Path(model["filename"])
    for name in (model["title"], model["model_name"], path.name, path.stem, f"{path.name} [6ce0161689]"):
        assert server.http.post("/sdapi/v1/options", json={"sd_model_checkpoint": name}).status_code == 200, name
        assert server.http.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == model["title"]


def test_options_belong_to_one_client(serve: StartServer) -> None:
    server = serve(api_keys="one,two")
    first, second = (client_of(server, username="me", password=key) for key in ("one", "two"))
    first.set_options({"CLIP_stop_at_last_layers": 2})
    assert [client.get_options()["CLIP_stop_at_last_layers"] for client in (first, second)] == [2, 1]
    results = [client.txt2img(prompt="a star", seed=7, width=64, height=64, cfg_scale=1) for client in (first, second)]
    assert [result.info["clip_skip"] for result in results] == [2, 1]
    assert results[0].image.tobytes() != results[1].image.tobytes()


def test_options_for_input_pictures_are_kept_and_checked_on_use(server: Running, img2img: Poster) -> None:
    here = Poster(server, "img2img", img2img.defaults)
    server.http.post("/sdapi/v1/options", json={"img2img_color_correction": True, "img2img_fix_steps": True})
    options = server.http.get("/sdapi/v1/options").json()
    assert (options["img2img_color_correction"], options["img2img_fix_steps"]) == (True, True)
    assert options["img2img_background_color"] == "#ffffff"
    assert "set it to this value" in here.refusal()
    text = {name: value for name, value in here.defaults.items() if name != "init_images"}
    assert Poster(server, "txt2img", text).answer(steps=1)["images"]
    server.http.post("/sdapi/v1/options", json={"img2img_color_correction": False})
    here.draw(steps=4, denoising_strength=0.7, seed=90)
    assert here.steps_of(90) == 4


@pytest.mark.parametrize(
    "given",
    [
        {"img2img_fix_steps": 1},
        {"img2img_background_color": 7},
        {"img2img_background_color": "#ffffff" * 99},
        {"inpainting_mask_weight": [1]},
        {"upscaler_for_img2img": "x" * 99},
    ],
)
def test_options_for_input_pictures_have_short_values(shared_server: Running, given: dict[str, Any]) -> None:
    response = shared_server.http.post("/sdapi/v1/options", json=given)
    assert response.status_code == 422
    assert response.json()["detail"].startswith(f"Invalid option {next(iter(given))} ")
