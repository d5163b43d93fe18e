"""Several modes on one server: whatever else happens, each mode draws the picture that its model draws alone."""

from __future__ import annotations

import base64
import contextlib
import gc
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
import pytest
import torch
from openai import OpenAI

from imagegen_core import LocalEngine, Settings, SettingsError
from imagegen_core.server import create_app
from tests.modes import NAMES, Zoo, make_zoo
from tests.repetitions import FACTOR
from tests.server.conftest import LIMIT, listening
from tests.waiting import until

SEED = 7
SWITCHES = 16 * FACTOR
CLIENTS = 3
ROOM_FOR_TWO = 11_000_000  # bytes; each tiny model takes between four and five million
LONG = 4 * LIMIT  # seconds; models are loaded and tested meanwhile, perhaps on a busy machine


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return make_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="module")
def expected(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return zoo.alone(tmp_path_factory.mktemp("alone"), SEED)


@dataclass
class Serving:
    """A server with the zoo's modes, and the file that defines them."""

    http: httpx.Client
    url: str
    app: Any
    file: Path
    yaml: str

    def draw(self, mode: str | None = None, **fields: Any) -> httpx.Response:
        body = {"prompt": "a star", "seed": SEED, **({} if mode is None else {"mode": mode}), **fields}
        return self.http.post("/generate", json=body)

    def modes(self) -> Any:
        return self.http.get("/api/modes").json()

    def loads(self) -> int:
        return int(self.http.get("/api/models/status").json()["loads"])

    def until(self, condition: Callable[[], Any]) -> Any:
        return until(condition, LONG)


Serve = Callable[..., Serving]


@pytest.fixture
def serve(zoo: Zoo, tmp_path: Path) -> Iterator[Serve]:
    with contextlib.ExitStack() as stack:

        def start(yaml: str | None = None, *, ready: bool = True, **settings: Any) -> Serving:
            server_settings = zoo.settings(tmp_path, **settings)
            if yaml is not None:
                (tmp_path / "modes.yaml").write_text(yaml)
            app = create_app(server_settings)
            url = stack.enter_context(listening(app))
            http = stack.enter_context(httpx.Client(base_url=url, timeout=LONG))
            serving = Serving(http, url, app, tmp_path / "modes.yaml", zoo.yaml)
            if ready:
                serving.until(lambda: http.get("/ready").status_code == 200)
            return serving

        yield start


def test_modes_draw_independently_and_share_checkpoints(serve: Serve, expected: dict[str, bytes]) -> None:
    assert len(set(expected.values())) == len(NAMES)
    server = serve()
    assert server.modes()["modes"]["old"]["state"] == "absent"
    for name in (*NAMES, *reversed(NAMES)):
        response = server.draw(name)
        assert (response.status_code, response.headers["X-Mode"]) == (200, name)
        assert response.content == expected[name]
    assert server.draw().content == expected["plain"]
    assert server.loads() == 3
    models = server.http.get("/api/vram").json()["models"]
    assert [model["modes"] for model in models] == [["plain", "inked"], ["other"], ["old"]]
    assert all(4e6 < model["vram_gb"] * 1e9 < 6e6 for model in models)
    assert len({engine.worker.compute(threading.get_ident) for engine in _engines(server)}) == 1


def _engines(server: Serving) -> list[Any]:
    manager = server.app.state.context.mode_manager
    return [manager.models.engine(mode) for mode in manager.modes.modes.values()]


def test_request_fields_override_the_mode_and_may_add_a_style(
    serve: Serve, zoo: Zoo, expected: dict[str, bytes]
) -> None:
    server = serve(lora_root=zoo.root / "loras")
    styled = {"style_lora": {"style": "wash", "level": 1}}
    pictures = {
        server.draw(**fields).content
        for fields in (
            {"mode": "plain", **styled},
            {"mode": "inked", **styled},
            {"mode": "inked", "num_inference_steps": 2},
            {"mode": "other", "size": "64x64"},
        )
    }
    assert len(pictures | set(expected.values())) == 4 + len(NAMES)
    refused = server.draw("old", **styled)  # the LoRA is for another family
    assert refused.status_code == 422
    assert server.draw("inked").content == expected["inked"]


def test_unknown_mode_is_refused_with_the_known_modes(serve: Serve) -> None:
    server = serve()
    for response in (server.draw("nix"), server.http.post("/api/modes/switch", json={"mode": "nix"})):
        assert (response.status_code, response.json()["field"]) == (422, "mode")
        assert response.json()["detail"] == "Unknown mode 'nix': expected plain or inked or other or old"


def test_default_mode_is_switched_after_its_model_is_loaded(serve: Serve, expected: dict[str, bytes]) -> None:
    server = serve()
    switched = server.http.post("/api/modes/switch", json={"mode": "old"}).json()
    assert (switched["status"], switched["from_mode"], switched["to_mode"]) == ("switched", "plain", "old")
    assert server.modes()["modes"]["old"]["state"] == "ready"
    response = server.draw()
    assert (response.content, response.headers["X-Mode"]) == (expected["old"], "old")
    assert server.http.get("/health").json()["mode"] == "old"
    repeated = server.http.post("/api/modes/switch", json={"mode": "old"}).json()
    assert repeated["status"] == "already_loaded"


def test_failed_mode_leaves_the_current_mode_serving(serve: Serve, expected: dict[str, bytes]) -> None:
    server = serve()
    server.file.write_text(server.yaml.replace("model: two", "model: gone").replace("ink.saf", "nix.saf"))
    assert server.http.post("/api/modes/reload").json()["modes"] == list(NAMES)
    for response in (server.http.post("/api/modes/switch", json={"mode": "other"}), server.draw("other")):
        assert (response.status_code, response.json()["type"]) == (503, "not_ready")
        assert "The model of mode other could not be loaded: No checkpoint 'gone'" in response.json()["detail"]
    switched = server.http.post("/api/modes/switch", json={"mode": "inked"})
    assert "There is no LoRA" in switched.json()["detail"]
    assert server.modes()["default_mode"] == "plain"
    assert server.draw().content == expected["plain"]
    server.file.write_text(server.yaml)
    server.http.post("/api/modes/reload")
    assert server.draw("other").content == expected["other"]


def test_failed_default_mode_is_reported_and_recovers(serve: Serve, zoo: Zoo, expected: dict[str, bytes]) -> None:
    server = serve(zoo.yaml.replace("model: one", "model: gone"), ready=False)
    readiness = server.until(lambda: (current := server.http.get("/ready").json())["status"] == "failed" and current)
    assert "No checkpoint 'gone'" in readiness["detail"]
    assert server.draw().status_code == 503
    assert server.draw("old").content == expected["old"]
    server.file.write_text(server.yaml)
    assert server.http.post("/api/modes/reload").status_code == 200
    assert server.http.get("/ready").status_code == 200
    assert server.draw().content == expected["plain"]


def test_modes_file_is_watched_and_invalid_edits_are_ignored(serve: Serve, expected: dict[str, bytes]) -> None:
    server = serve()
    server.file.write_text(server.yaml.replace("default_steps: 3", "stpes: 3"))
    error = server.until(lambda: server.modes()["error"])
    assert "Unknown key modes.inked.stpes in" in error
    assert "line 17" in error
    assert server.draw("inked").content == expected["inked"]
    changed = server.yaml.replace("  old:", "  aged:").replace("default_mode: plain", "default_mode: aged")
    new = server.file.with_suffix(".new")
    new.write_text(changed)
    new.replace(server.file)  # editors replace a file like this
    server.until(lambda: server.modes()["default_mode"] == "aged")
    assert server.modes()["error"] is None
    response = server.draw()
    assert (response.content, response.headers["X-Mode"]) == (expected["old"], "aged")
    assert server.draw("old").status_code == 422


def test_switched_mode_stays_until_the_file_names_another_default(serve: Serve) -> None:
    server = serve()
    server.http.post("/api/modes/switch", json={"mode": "inked"})
    assert server.http.post("/api/modes/reload").json()["default_mode"] == "inked"
    server.file.write_text(server.yaml.replace("default_mode: plain", "default_mode: old"))
    assert server.http.post("/api/modes/reload").json()["default_mode"] == "old"


def test_models_are_loaded_and_unloaded_on_request(serve: Serve, expected: dict[str, bytes]) -> None:
    server = serve()
    assert server.http.post("/api/models/load", json={"mode": "other"}).json() == {"status": "loaded", "mode": "other"}
    assert server.http.post("/api/models/unload").json() == {"status": "unloaded", "mode": "plain"}
    assert [model["name"] for model in server.http.get("/api/vram").json()["models"]] == ["other"]
    repeated = server.http.post("/api/models/unload", json={"mode": "plain"})
    assert (repeated.status_code, repeated.json()["type"]) == (409, "conflict")
    assert server.http.get("/sdapi/v1/loras").status_code == 200  # read from the files of the unloaded model
    assert server.draw().content == expected["plain"]
    status = server.http.get("/api/models/status").json()
    assert (status["current_mode"], status["loads"], status["unloads"]) == ("plain", 3, 1)
    assert 'imagegen_mode_images_total{mode="plain"} 1.0' in server.http.get("/metrics").text
    assert 'imagegen_model_bytes{host="",model="one",state="ready"}' in server.http.get("/metrics").text


def test_openai_clients_see_modes_as_models(serve: Serve, expected: dict[str, bytes]) -> None:
    server = serve()
    client = OpenAI(base_url=f"{server.url}/v1", api_key="any")
    assert [model.id for model in client.models.list()] == list(NAMES)
    response = client.images.generate(prompt="a star", model="old", extra_body={"seed": SEED})
    assert base64.b64decode(response.data[0].b64_json or "") == expected["old"]  # type: ignore[index]
    assert server.http.get("/v1/models/inked").json()["id"] == "inked"
    assert server.http.get("/v1/models/nix").status_code == 404


def test_a1111_clients_see_modes_as_checkpoints(serve: Serve, expected: dict[str, bytes]) -> None:
    server = serve()
    checkpoints = server.http.get("/sdapi/v1/sd-models").json()
    assert [checkpoint["title"] for checkpoint in checkpoints] == list(NAMES)
    body = {"prompt": "a star", "seed": SEED, "override_settings": {"sd_model_checkpoint": "old"}}

    def picture(body: dict[str, Any]) -> bytes:
        return base64.b64decode(server.http.post("/sdapi/v1/txt2img", json=body).json()["images"][0])

    assert picture(body) == expected["old"]
    assert server.http.post("/sdapi/v1/options", json={"sd_model_checkpoint": "inked"}).status_code == 200
    assert server.http.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == "inked"
    assert picture({"prompt": "a star", "seed": SEED}) == expected["inked"]
    refused = server.http.post("/sdapi/v1/options", json={"sd_model_checkpoint": "nix"})
    assert "This server draws only with plain or inked or other or old" in refused.text
    assert server.draw().content == expected["plain"]


def test_job_keeps_its_mode(serve: Serve, expected: dict[str, bytes]) -> None:
    server = serve()
    job = server.http.post("/v1/jobs", json={"prompt": "a star", "seed": SEED, "mode": "old"}).json()
    server.http.post("/api/modes/switch", json={"mode": "other"})
    finished_job = server.until(
        lambda: (current := server.http.get(f"/v1/jobs/{job['id']}").json())["image"] and current
    )
    response = server.http.get(finished_job["image"])
    assert (response.content, response.headers["X-Mode"]) == (expected["old"], "old")


def test_mode_routes_need_a_key(serve: Serve) -> None:
    server = serve(api_keys="secret")
    for method, path in (("GET", "modes"), ("POST", "modes/reload"), ("GET", "vram"), ("GET", "models/status")):
        assert server.http.request(method, f"/api/{path}").status_code == 401
    for path in ("modes/switch", "models/load", "models/unload"):
        assert server.http.post(f"/api/{path}", json={"mode": "old"}).status_code == 401
    assert server.http.get("/api/modes", headers={"X-API-Key": "secret"}).status_code == 200


@pytest.mark.parametrize("copies", [{"num_workers": 2}, {"device": "cpu,cpu"}], ids=str)
def test_a_pool_of_copies_draws_each_mode(serve: Serve, expected: dict[str, bytes], copies: dict[str, Any]) -> None:
    server = serve(**copies, memory_budget=2 * ROOM_FOR_TWO)
    with ThreadPoolExecutor(CLIENTS) as pool:
        pictures = list(pool.map(lambda name: (name, server.draw(name).content), NAMES))
    assert dict(pictures) == expected
    steps = server.http.get("/health").json()["engine"]["steps"]
    assert sum(int(rows) * count for rows, count in steps.items()) >= CLIENTS
    vram = server.http.get("/api/vram").json()
    assert all(4e6 < model["vram_gb"] * 1e9 < 6e6 for model in vram["models"])  # the copies share one file's weights
    assert [device["device"] for device in vram["devices"]] == ["cpu"]
    plan = vram["models"][0]["memory"]
    assert (plan["storage"], plan["offloaded"], plan["streamed"], plan["fits"]) == (None, [], False, True)
    assert {"device": vram["device"], "total_gb": vram["total_gb"]}.items() <= vram["devices"][0].items()


def test_each_copy_has_the_loras_and_shares_its_neighbours_thread(serve: Serve) -> None:
    server = serve(num_workers=2, memory_budget=2 * ROOM_FOR_TWO)
    for name in ("inked", "other"):
        assert server.http.post("/api/models/load", json={"mode": name}).status_code == 200
    manager = server.app.state.context.mode_manager
    inked, other = (manager.models.engine(manager.modes.find(name)) for name in ("inked", "other"))
    assert len({worker.memory_bytes() for worker in inked.workers}) == 1
    threads = [[worker.compute(threading.get_ident) for worker in engine.workers] for engine in (inked, other)]
    assert threads[0] == threads[1]
    assert len(set(threads[0])) == 2


def test_given_engine_is_the_only_mode(tiny_worker: Any, zoo: Zoo, tmp_path: Path) -> None:
    with LocalEngine(tiny_worker) as engine:
        with pytest.raises(SettingsError, match="An engine was given, and the configuration names modes"):
            create_app(zoo.settings(tmp_path), engine)
        (tmp_path / "modes.yaml").unlink()
        with pytest.raises(
            SettingsError, match="^engine=ray, and create_app draws in this process: run `imagegen serve`"
        ):
            create_app(Settings.load(environ={}, engine="ray"))
        app = create_app(Settings.load(environ={}), engine)
        with listening(app) as url, httpx.Client(base_url=url, timeout=LIMIT) as http:
            modes = http.get("/api/modes").json()
            assert (modes["default_mode"], list(modes["modes"])) == ("default", ["default"])
            assert http.post("/api/modes/reload").json()["detail"].startswith("This server has one mode, drawn by the")
            assert http.post("/api/models/unload").status_code == 409
            assert [model["bytes"] for model in http.get("/health").json()["models"]] == [tiny_worker.memory_bytes()]
            assert http.post("/api/modes/switch", json={"mode": "default"}).json()["status"] == "already_loaded"


def test_switches_under_load_fail_no_request_and_leak_nothing(serve: Serve, expected: dict[str, bytes]) -> None:
    server = serve(memory_budget=ROOM_FOR_TWO)
    for name in NAMES:
        assert server.draw(name).content == expected[name]
    before = _resources()
    stop, failures = threading.Event(), []

    def draw_on(number: int) -> int:
        rng, count = random.Random(number), 0
        with httpx.Client(base_url=server.url, timeout=LONG) as http:
            while not stop.is_set():
                name = rng.choice(NAMES)
                response = http.post("/generate", json={"prompt": "a star", "seed": SEED, "mode": name})
                if response.status_code != 200 or response.content != expected[name]:
                    failures.append((name, response.status_code, response.text[:200]))
                count += 1
        return count

    with ThreadPoolExecutor(CLIENTS) as pool:
        drawing = [pool.submit(draw_on, number) for number in range(CLIENTS)]
        try:
            for turn in range(SWITCHES):
                name = NAMES[turn % len(NAMES)]
                switched = server.http.post("/api/modes/switch", json={"mode": name})
                assert switched.status_code == 200, switched.text
                assert server.draw(name).content == expected[name]
        finally:
            stop.set()
        assert sum(future.result() for future in drawing) > SWITCHES / 4
    assert failures == []
    status = server.http.get("/api/models/status").json()
    assert status["unloads"] >= SWITCHES / 8
    assert sum(model["vram_gb"] for model in status["vram"]["models"]) * 1e9 <= ROOM_FOR_TWO
    for name in NAMES:
        assert server.draw(name).content == expected[name]
    server.until(lambda: _are_released(before))


def _resources() -> tuple[int, int, int]:
    """Return the number of tensors, threads and descriptors after a garbage collection."""
    gc.collect()
    tensors = sum(issubclass(type(item), torch.Tensor) for item in gc.get_objects())
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("imagegen")]
    return tensors, len(threads), psutil.Process().num_fds()


def _are_released(before: tuple[int, int, int]) -> bool:
    tensors, threads, descriptors = _resources()
    return tensors <= 1.02 * before[0] and threads <= before[1] and descriptors <= before[2]
