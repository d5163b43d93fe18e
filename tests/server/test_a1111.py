"""A1111's API, used by the unmodified webuiapi client."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import diffusers
import pytest
import torch
import webuiapi
from fastapi.testclient import TestClient
from PIL import Image
from safetensors.torch import save_file

from imagegen_core import LocalEngine, Settings, read_recipe
from imagegen_core.errors import InvalidRequestError
from imagegen_core.server import create_app
from imagegen_core.server.a1111 import Txt2ImgBody
from imagegen_core.server.a1111.scripts import check_scripts
from imagegen_sdxl import DiffusersSDXLCudaWorker
from tests.engine.faults import Gate
from tests.loras import as_kohya, random_lora, save
from tests.server.conftest import LIMIT, Running, StartServer


def _client(server: Running, **options: Any) -> webuiapi.WebUIApi:
    address = urlsplit(server.url)
    return webuiapi.WebUIApi(host=address.hostname, port=address.port, sampler="LCM", steps=4, **options)


@pytest.fixture
def client(server: Running) -> webuiapi.WebUIApi:
    return _client(server)


def test_txt2img_draws_the_same_picture_as_generate(client: webuiapi.WebUIApi, server: Running) -> None:
    result = client.txt2img(prompt="a star", negative_prompt="", seed=7, width=64, height=64, cfg_scale=1)
    assert result.image.tobytes() == Image.open(io.BytesIO(server.draw().content)).tobytes()
    assert result.info["all_seeds"] == [7]
    assert "Seed: 7" in result.info["infotexts"][0]
    assert result.parameters["prompt"] == "a star"


def test_batches_use_consecutive_seeds(client: webuiapi.WebUIApi) -> None:
    result = client.txt2img(prompt="a star", seed=7, width=64, height=64, cfg_scale=1, batch_size=2, n_iter=2)
    assert len(result.images) == 4
    assert result.info["all_seeds"] == [7, 8, 9, 10]


def test_sampler_and_schedule_are_applied(server: Running) -> None:
    result = server.http.post(
        "/sdapi/v1/txt2img",
        json={"prompt": "x", "width": 64, "height": 72, "steps": 3, "sampler_name": "DPM++ 2M", "scheduler": "Karras"},
    ).json()
    recipe = read_recipe(base64.b64decode(result["images"][0]))
    assert (recipe.scheduler, recipe.schedule, recipe.steps, recipe.height) == ("DPM++ 2M", "Karras", 3, 72)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        # The samplers' default schedules in modules/sd_samplers_kdiffusion.py of A1111 1.10.
        ({"sampler_name": "DPM++ 2M"}, {"scheduler": "DPM++ 2M", "schedule": "Karras"}),
        ({"sampler_name": "DPM++ 2M SDE", "scheduler": "Automatic"}, {"schedule": "Exponential"}),
        ({"sampler_name": "Euler a", "scheduler": "automatic"}, {"scheduler": "Euler a", "schedule": "Uniform"}),
        ({"sampler_name": "Euler a", "scheduler": "sgm_uniform"}, {"schedule": "SGM Uniform"}),
        ({"sampler_name": "DPM++ 2M Karras"}, {"scheduler": "DPM++ 2M Karras", "schedule": None}),
        ({"scheduler": "Automatic"}, {"scheduler": "LCM", "schedule": None}),
        # A1111's clients send its defaults too; they request nothing.
        ({"sampler_name": "Euler", "eta": 1.0, "s_noise": 1.0, "s_churn": 0.0}, {"eta": None, "s_noise": None}),
        ({"eta": 1.0, "s_noise": 1, "s_churn": 0, "s_tmin": 0, "s_tmax": 0}, {"eta": None, "s_churn": None}),
        ({"sampler_name": "DPM++ 2M", "eta": 0, "s_noise": 0, "s_churn": 0}, {"eta": None, "s_noise": None}),
        ({"sampler_name": "DDIM", "eta": 0.0, "s_noise": 0}, {"eta": 0.0, "s_noise": None}),
        ({"sampler_name": "DDIM", "eta": 1.0}, {"eta": 1.0}),
        # ComfyUI's default schedule; its clients also send it to A1111.
        ({"sampler_name": "Euler a", "scheduler": "normal"}, {"schedule": "Normal"}),
        ({"sampler_name": "DDIM", "scheduler": "normal"}, {"scheduler": "DDIM", "schedule": None}),
        ({"sampler_name": "DPM++ 2M Karras", "scheduler": "normal"}, {"scheduler": "DPM++ 2M Karras"}),
        ({"scheduler": "normal"}, {"scheduler": "LCM", "schedule": None}),
        ({"sampler_name": "Euler", "s_churn": 2.0, "s_noise": 1.1}, {"s_churn": 2.0, "s_noise": 1.1}),
    ],
)
def test_sampling_fields_have_a1111s_meaning(server: Running, fields: dict[str, Any], expected: dict[str, Any]) -> None:
    body = {"prompt": "x", "width": 64, "height": 64, "steps": 2, **fields}
    response = server.http.post("/sdapi/v1/txt2img", json=body)
    assert response.status_code == 200, response.text
    recipe = read_recipe(base64.b64decode(response.json()["images"][0]))
    assert {name: getattr(recipe, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"enable_hr": True}, "enable_hr='True' is nothing this server does: leave it out"),
        ({"tiling": True}, "tiling='True' is nothing"),
        ({"script_name": "x/y plot"}, "script_name='x/y plot' is nothing"),
        (
            {"alwayson_scripts": {"x" * 9999: {"args": [True]}}},
            "There is no script 'xxxxxxxxxxxx...xxxxxxxxxxxxx' here",
        ),
        ({"subseed_strength": 0.5}, "subseed_strength='0.5' is nothing"),
        ({"alwayson_scripts": {"ControlNet": {"args": [{"image": "x"}]}}}, "There is no script 'ControlNet' here"),
        ({"sampler_name": "nix"}, "Unknown scheduler 'nix'"),
        ({"sampler_name": "Euler a", "eta": 0.5}, "Invalid eta 0.5: the Euler a scheduler takes none"),
        ({"sampler_name": "DPM++ 2M", "s_churn": 3}, "Invalid s_churn 3: the DPM++ 2M scheduler takes none"),
        ({"sampler_name": "DDIM", "scheduler": "Karras"}, "the DDIM scheduler takes Automatic, Uniform"),
        ({"styles": ["nix"]}, "Unknown style 'nix'"),
        ({"prompt": "a star <lora:nix:0.8>"}, "Unknown style 'nix'"),
        ({"prompt": "a star <hypernet:nix:0.8>"}, "<hypernet:nix:0.8> is not drawn here"),
        ({"prompt": "a [star:moon:0.5]"}, "[star:moon:0.5] in prompt changes at a step, which is not drawn here"),
        ({"negative_prompt": "[dark|dim]"}, "[dark|dim] in negative_prompt alternates, which is not drawn here"),
        ({"override_settings": {"nix": 1}}, "There is no option 'nix' to set here"),
        (
            {"override_settings": {"sd_model_checkpoint": "other"}},
            "tiny-sdxl: leave sd_model_checkpoint out",
        ),
        ({"override_settings": {"comma_padding_backtrack": 0}}, "comma_padding_backtrack 0: this server draws with 20"),
        ({"override_settings": {"enable_emphasis": 1}}, "option enable_emphasis 1: this server draws with True"),
        ({"override_settings": {"CLIP_stop_at_last_layers": True}}, "Invalid CLIP_stop_at_last_layers True"),
        ({"override_settings": {"forge_additional_modules": ["a.safetensors"]}}, "this server draws with []"),
        ({"width": 65}, "Invalid size '65x64'"),
        ({"n_iter": 9, "batch_size": 2}, "at most 16 pictures at a time"),
    ],
)
def test_unsupported_fields_are_refused(client: webuiapi.WebUIApi, fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RuntimeError) as caught:
        client.txt2img(**{"prompt": "a star", "width": 64, "height": 64, "cfg_scale": 1, **fields})
    status, text = caught.value.args
    assert status == 422
    assert sentence in text


@pytest.fixture(scope="module")
def styled_worker(sdxl_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    loras = tmp_path_factory.mktemp("loras")
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(sdxl_checkpoint, local_files_only=True)
    save(as_kohya(random_lora(pipe)), loras / "ink.safetensors")
    return DiffusersSDXLCudaWorker(
        settings=Settings(model=str(sdxl_checkpoint), device="cpu", dtype="fp32", lora_root=loras)
    )


def test_lora_strengths_are_compared_as_numbers(styled_worker: Any, sdxl_checkpoint: Path) -> None:
    fields = {"seed": 7, "width": 64, "height": 64, "cfg_scale": 1, "steps": 1}
    settings = Settings.load(environ={}, model=str(sdxl_checkpoint), lora_root=styled_worker.styles["ink"].path.parent)
    engine = LocalEngine(styled_worker)
    with contextlib.closing(engine), TestClient(create_app(settings, engine)) as http:
        pictures = {}
        for tag in ("", "0", "0.0", "0.7", "0.70", "+.7", "1", "1.0", "1e0"):
            prompt = f"a star <lora:ink:{tag}>" if tag else "a star"
            response = http.post("/sdapi/v1/txt2img", json={"prompt": prompt, **fields})
            assert response.status_code == 200, response.text
            pictures[tag] = Image.open(io.BytesIO(base64.b64decode(response.json()["images"][0]))).tobytes()
        refused = http.post("/sdapi/v1/txt2img", json={"prompt": "a star <lora:ink:0.5>", **fields})
    assert pictures[""] == pictures["0"] == pictures["0.0"]
    assert pictures["0.7"] == pictures["0.70"] == pictures["+.7"]
    assert pictures["1"] == pictures["1.0"] == pictures["1e0"]
    assert len({*pictures.values()}) == 3
    assert refused.status_code == 422
    assert "Invalid strength 0.5 of <lora:ink>: its style has 0.4, 0.7, 1, and 0 is off" in refused.text


def test_samplers_models_and_upscalers_are_listed(client: webuiapi.WebUIApi, server: Running) -> None:
    assert "LCM" in client.util_get_sampler_names()
    schedules = {"automatic", "uniform", "karras", "exponential", "sgm_uniform", "simple", "normal", "ddim", "beta"}
    assert {*client.util_get_scheduler_names()} == schedules | {"align_your_steps"}
    assert len(client.util_get_model_names()) == 1
    assert client.util_get_current_model() == client.util_get_model_names()[0]
    assert [upscaler["name"] for upscaler in client.get_upscalers()][:1] == ["None"]
    assert client.get_loras() == []
    assert client.get_scripts() == {"txt2img": [], "img2img": []}
    assert client.get_memory()["ram"]["total"] > 0
    assert client.get_cmd_flags()["api"] is True


def test_options_apply_to_later_pictures(client: webuiapi.WebUIApi) -> None:
    client.set_options({"CLIP_stop_at_last_layers": 2})
    assert client.get_options()["CLIP_stop_at_last_layers"] == 2
    skipped = client.txt2img(prompt="a star", seed=7, width=64, height=64, cfg_scale=1)
    client.set_options({"CLIP_stop_at_last_layers": 1})
    plain = client.txt2img(prompt="a star", seed=7, width=64, height=64, cfg_scale=1)
    assert skipped.image.tobytes() != plain.image.tobytes()


def test_progress_is_reported_and_interrupt_cancels_the_picture(client: webuiapi.WebUIApi, server: Running) -> None:
    assert client.get_progress()["progress"] == 0
    gate, ended = Gate(shut=True), threading.Event()
    server.worker.batches.clear()

    def hold(*_: Any) -> None:
        if len(server.worker.batches) > 1:
            gate()

    server.worker.before["step"] = hold
    failures: list[Exception] = []

    def draw() -> None:
        try:
            client.txt2img(prompt="a star", width=64, height=64, cfg_scale=1, steps=4)
        except RuntimeError as error:
            failures.append(error)
        ended.set()

    thread = threading.Thread(target=draw)
    thread.start()
    assert gate.reached.wait(LIMIT)
    other_client = _client(server)
    progress = other_client.get_progress()
    assert progress["progress"] == 0.25
    assert (progress["state"]["job_count"], progress["state"]["sampling_steps"]) == (1, 4)
    assert progress["current_image"]
    other_client.interrupt()
    assert ended.wait(LIMIT)
    gate.open()
    thread.join()
    assert failures[0].args[0] == 409
    server.until(lambda: server.report().cancelled == 1)
    other_client.util_wait_for_ready(check_interval=0.01)


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


def test_password_is_the_api_key(serve: StartServer) -> None:
    server = serve(api_keys="right")
    assert _client(server, username="me", password="right").get_scripts()["txt2img"] == []
    wrong = _client(server, username="me", password="wrong")
    with pytest.raises(RuntimeError) as caught:
        wrong.txt2img(prompt="a star")
    assert caught.value.args[0] == 401


@pytest.mark.parametrize("value", [None, {}, {"args": None}, {"args": []}, {"args": [None]}, {"args": [False, "x", 3]}])
@pytest.mark.parametrize("name", ["ControlNet", "ADetailer", "Tiled Diffusion"])
def test_disabled_scripts_are_accepted(name: str, value: Any) -> None:
    check_scripts({name: value})


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        # https://github.com/Mikubill/sd-webui-controlnet, internal_controlnet/args.py
        ("ControlNet", [{"enabled": False, "image": "iVBO", "model": "canny"}]),
        ("controlnet", [{"model": "None", "module": "none", "image": None}, {"enabled": False, "module": "canny"}]),
        # https://github.com/Bing-su/adetailer/wiki/API
        ("ADetailer", [True, False, {"ad_model": "None"}]),
        ("ADetailer", [{"ad_model": "None"}, {"ad_model": "face_yolov8n.pt", "ad_tab_enable": False}]),
        ("ADetailer", [True]),
        ("roop", ["iVBO", False, "0"]),
        ("ReActor", ["iVBO", False, "0"]),
        ("animatediff", [{"enable": False, "model": "mm_sd15_v3.safetensors"}]),
    ],
)
def test_each_scripts_own_switch_disables_it(name: str, arguments: Any) -> None:
    check_scripts({name: {"args": arguments}})


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("ControlNet", [{"enabled": False, "model": "canny"}, {"enabled": True, "module": "reference_only"}]),
        ("ControlNet", [{"model": "canny [1a2b3c4d]"}]),
        ("ADetailer", [{"ad_model": "face_yolov8n.pt"}]),
        ("ADetailer", [True, False, {"ad_model": "face_yolov8n.pt"}]),
        ("roop", ["iVBO", True]),
        ("Tiled VAE", [True]),
        ("Seed", [-1]),
        ("x", "y"),
        ("x", 1),
    ],
)
def test_enabled_scripts_are_refused_by_name(name: str, arguments: Any) -> None:
    with pytest.raises(InvalidRequestError, match=f"There is no script '{name}' here: leave it out, or switch it off"):
        check_scripts({name: {"args": arguments}})


def test_null_fields_count_as_missing(server: Running) -> None:
    body = {"prompt": "a star", "width": 64, "height": 64, "steps": 2}
    nulls = dict.fromkeys(
        {*Txt2ImgBody.model_fields, "denoising_strength", "enable_hr", "hr_upscaler", "subseed"} - {*body}
    )
    result = server.http.post("/sdapi/v1/txt2img", json={**body, **nulls}).json()
    recipe = read_recipe(base64.b64decode(result["images"][0]))
    assert (recipe.negative_prompt, recipe.scheduler, recipe.style) == (None, "LCM", None)
    repeated = server.http.post("/sdapi/v1/txt2img", json={**body, "seed": recipe.seed}).json()
    assert repeated["images"] == result["images"]


def test_hires_fields_are_ignored_while_hires_is_off(server: Running) -> None:
    body = {"prompt": "a star", "width": 64, "height": 64, "steps": 2, "seed": 7}
    hires = {"enable_hr": False, "hr_scale": 2, "hr_upscaler": "Latent", "hr_second_pass_steps": 12.5, "hr_prompt": ""}
    plain, off = (server.http.post("/sdapi/v1/txt2img", json=fields).json() for fields in (body, body | hires))
    assert plain["images"] == off["images"]


def test_info_describes_the_pictures(server: Running) -> None:
    body = {"prompt": "a star", "width": 64, "height": 72, "steps": 3, "batch_size": 2, "styles": [None, "None", ""]}
    override = {"override_settings": {"CLIP_stop_at_last_layers": 2}}
    info = json.loads(server.http.post("/sdapi/v1/txt2img", json=body | override).json()["info"])
    assert {name: info[name] for name in ("steps", "width", "height", "clip_skip", "sampler_name", "styles")} == {
        "steps": 3,
        "width": 64,
        "height": 72,
        "clip_skip": 2,
        "sampler_name": "LCM",
        "styles": [],
    }
    assert info["all_seeds"] == [info["seed"], info["seed"] + 1]
    assert info["sd_model_name"] == server.http.get("/sdapi/v1/sd-models").json()[0]["model_name"]
    assert [text.splitlines()[0] for text in info["infotexts"]] == info["all_prompts"] == ["a star", "a star"]
    plain = json.loads(server.http.post("/sdapi/v1/txt2img", json=body).json()["info"])
    assert (plain["clip_skip"], plain["cfg_scale"]) == (1, 1.0)
    assert (
        json.loads(server.http.post("/sdapi/v1/txt2img", json=body | {"clip_skip": 2}).json()["info"])["clip_skip"] == 2
    )


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
    first, second = (_client(server, username="me", password=key) for key in ("one", "two"))
    first.set_options({"CLIP_stop_at_last_layers": 2})
    assert [client.get_options()["CLIP_stop_at_last_layers"] for client in (first, second)] == [2, 1]
    results = [client.txt2img(prompt="a star", seed=7, width=64, height=64, cfg_scale=1) for client in (first, second)]
    assert [result.info["clip_skip"] for result in results] == [2, 1]
    assert results[0].image.tobytes() != results[1].image.tobytes()


def test_progress_interrupt_and_skip_apply_to_own_pictures_only(serve: StartServer) -> None:
    server = serve(api_keys="one,two")
    first, second = (_client(server, username="me", password=key) for key in ("one", "two"))
    gate = Gate(shut=True)
    server.worker.before["step"] = lambda *_: gate()
    with ThreadPoolExecutor() as threads:
        drawing = threads.submit(first.txt2img, prompt="a star", seed=7, width=64, height=64, n_iter=3)
        assert gate.reached.wait(LIMIT)
        server.until(lambda: first.get_progress()["state"]["job_count"] == 3)
        assert second.get_progress()["state"]["job_count"] == 0
        second.interrupt()
        second.skip()
        first.skip()
        gate.open()
        assert drawing.result(LIMIT).info["all_seeds"] == [8, 9]


def test_changes_to_the_server_need_an_admin_key(serve: StartServer) -> None:
    server = serve(api_keys="one", admin_keys="root")
    for route in ("unload-checkpoint", "reload-checkpoint", "refresh-checkpoints"):
        responses = [server.http.post(f"/sdapi/v1/{route}", headers={"X-API-Key": key}) for key in ("one", "root")]
        assert [response.status_code for response in responses] == [403, 200]
        assert "admin key" in responses[0].json()["detail"]


def test_busy_model_is_not_unloaded(server: Running) -> None:
    gate = Gate(shut=True)
    server.worker.before["step"] = lambda *_: gate()
    with ThreadPoolExecutor() as threads:
        drawing = threads.submit(server.draw)
        assert gate.reached.wait(LIMIT)
        response = server.http.post("/sdapi/v1/unload-checkpoint")
        gate.open()
        assert drawing.result(LIMIT).status_code == 200
    assert response.status_code == 409
    assert "draws at the moment" in response.json()["detail"]


def test_lists_without_entries_are_empty(client: webuiapi.WebUIApi, server: Running) -> None:
    for path in ("sd-vae", "sd-modules", "latent-upscale-modes", "hypernetworks", "face-restorers", "prompt-styles"):
        assert server.http.get(f"/sdapi/v1/{path}").json() == [], path
    for path in ("realesrgan-models", "script-info", "extensions"):
        assert server.http.get(f"/sdapi/v1/{path}").json() == [], path
    assert server.http.get("/sdapi/v1/embeddings").json() == {"loaded": {}, "skipped": {}}
    for path in ("refresh-checkpoints", "refresh-loras", "refresh-vae", "skip"):
        response = server.http.post(f"/sdapi/v1/{path}")
        assert (response.status_code, response.json()) == (200, None), path
    for path in ("unload-checkpoint", "reload-checkpoint", "interrupt"):
        assert server.http.post(f"/sdapi/v1/{path}").json() == {}, path


def test_embeddings_are_listed_with_their_vectors(sdxl_checkpoint: Path, tmp_path: Path) -> None:
    save_file({part: torch.randn(2, 32) for part in ("clip_l", "clip_g")}, tmp_path / "papercut.safetensors")
    on_cpu: dict[str, Any] = {"model": str(sdxl_checkpoint), "device": "cpu", "dtype": "fp32"}
    settings = Settings(embeddings_root=tmp_path, **on_cpu)
    with LocalEngine(DiffusersSDXLCudaWorker(settings=settings)) as engine:
        embeddings = TestClient(create_app(settings, engine)).get("/sdapi/v1/embeddings").json()
    unknown = dict.fromkeys(("step", "sd_checkpoint", "sd_checkpoint_name"))
    assert embeddings == {"loaded": {"papercut": {**unknown, "shape": 32, "vectors": 2}}, "skipped": {}}


def test_long_lists_are_refused_early(server: Running) -> None:
    response = server.http.post("/sdapi/v1/txt2img", json={"styles": [1] * 9_000})
    assert response.status_code == 422
    assert response.json()["detail"].startswith("Invalid styles.0 1: ")
    response = server.http.post("/sdapi/v1/txt2img", json={"styles": [None] * 9_000})
    assert "at most 64 items" in response.json()["detail"]
