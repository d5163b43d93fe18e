"""Several modes behind one server: each picture is the one that its mode's model draws alone, whatever else goes on."""

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
from tests.server.conftest import LIMIT, listening
from tests.waiting import until

SEED = 7
SWITCHES = 40
CLIENTS = 3
ROOM_FOR_TWO = 11_000_000  # bytes: each of the tiny models takes between four and five million
LONG = 4 * LIMIT  # seconds: a model is loaded and tested meanwhile, on a machine that may do other things


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return make_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="module")
def alone(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return zoo.alone(tmp_path_factory.mktemp("alone"), SEED)


@dataclass
class Serving:
    """A server with the zoo's modes, and their file."""

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
            given = zoo.settings(tmp_path, **settings)
            if yaml is not None:
                (tmp_path / "modes.yaml").write_text(yaml)
            app = create_app(given)
            url = stack.enter_context(listening(app))
            http = stack.enter_context(httpx.Client(base_url=url, timeout=LONG))
            serving = Serving(http, url, app, tmp_path / "modes.yaml", zoo.yaml)
            if ready:
                serving.until(lambda: http.get("/ready").status_code == 200)
            return serving

        yield start


def test_each_mode_draws_as_it_does_alone_and_modes_of_one_checkpoint_share_it(
    serve: Serve, alone: dict[str, bytes]
) -> None:
    assert len(set(alone.values())) == len(NAMES)
    server = serve()
    assert server.modes()["modes"]["old"]["state"] == "absent"
    for name in (*NAMES, *reversed(NAMES)):
        answer = server.draw(name)
        assert (answer.status_code, answer.headers["X-Mode"]) == (200, name)
        assert answer.content == alone[name]
    assert server.draw().content == alone["plain"]
    assert server.loads() == 3
    models = server.http.get("/api/vram").json()["models"]
    assert [model["modes"] for model in models] == [["plain", "inked"], ["other"], ["old"]]
    assert all(4e6 < model["vram_gb"] * 1e9 < 5e6 for model in models)
    assert len({engine.worker.compute(threading.get_ident) for engine in _engines(server)}) == 1


def _engines(server: Serving) -> list[Any]:
    model = server.app.state.context.mode_manager
    return [model.models.engine(mode) for mode in model.modes.modes.values()]


def test_a_request_keeps_what_it_says_and_may_add_a_style(serve: Serve, zoo: Zoo, alone: dict[str, bytes]) -> None:
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
    assert len(pictures | set(alone.values())) == 4 + len(NAMES)
    refused = server.draw("old", **styled)  # the LoRA is for another family
    assert refused.status_code == 422
    assert server.draw("inked").content == alone["inked"]


def test_an_unknown_mode_is_refused_with_those_there_are(serve: Serve) -> None:
    server = serve()
    for answer in (server.draw("nix"), server.http.post("/api/modes/switch", json={"mode": "nix"})):
        assert (answer.status_code, answer.json()["field"]) == (422, "mode")
        assert answer.json()["detail"] == "Unknown mode 'nix': expected plain or inked or other or old"


def test_the_default_is_switched_once_the_other_is_loaded(serve: Serve, alone: dict[str, bytes]) -> None:
    server = serve()
    told = server.http.post("/api/modes/switch", json={"mode": "old"}).json()
    assert (told["status"], told["from_mode"], told["to_mode"]) == ("switched", "plain", "old")
    assert server.modes()["modes"]["old"]["state"] == "ready"
    answer = server.draw()
    assert (answer.content, answer.headers["X-Mode"]) == (alone["old"], "old")
    assert server.http.get("/health").json()["mode"] == "old"
    again = server.http.post("/api/modes/switch", json={"mode": "old"}).json()
    assert again["status"] == "already_loaded"


def test_a_mode_that_cannot_be_loaded_leaves_the_old_one_serving(serve: Serve, alone: dict[str, bytes]) -> None:
    server = serve()
    server.file.write_text(server.yaml.replace("model: two", "model: gone").replace("ink.saf", "nix.saf"))
    assert server.http.post("/api/modes/reload").json()["modes"] == list(NAMES)
    for answer in (server.http.post("/api/modes/switch", json={"mode": "other"}), server.draw("other")):
        assert (answer.status_code, answer.json()["type"]) == (503, "not_ready")
        assert "The model of mode other could not be loaded: No checkpoint 'gone'" in answer.json()["detail"]
    switched = server.http.post("/api/modes/switch", json={"mode": "inked"})
    assert "There is no LoRA" in switched.json()["detail"]
    assert server.modes()["default_mode"] == "plain"
    assert server.draw().content == alone["plain"]
    server.file.write_text(server.yaml)
    server.http.post("/api/modes/reload")
    assert server.draw("other").content == alone["other"]


def test_a_default_that_cannot_be_loaded_is_told_and_recovers(serve: Serve, zoo: Zoo, alone: dict[str, bytes]) -> None:
    server = serve(zoo.yaml.replace("model: one", "model: gone"), ready=False)
    told = server.until(lambda: (now := server.http.get("/ready").json())["status"] == "failed" and now)
    assert "No checkpoint 'gone'" in told["detail"]
    assert server.draw().status_code == 503
    assert server.draw("old").content == alone["old"]
    server.file.write_text(server.yaml)
    assert server.http.post("/api/modes/reload").status_code == 200
    assert server.http.get("/ready").status_code == 200
    assert server.draw().content == alone["plain"]


def test_the_file_is_watched_and_a_broken_edit_changes_nothing(serve: Serve, alone: dict[str, bytes]) -> None:
    server = serve()
    server.file.write_text(server.yaml.replace("default_steps: 3", "stpes: 3"))
    error = server.until(lambda: server.modes()["error"])
    assert "Unknown key modes.inked.stpes in" in error
    assert "line 17" in error
    assert server.draw("inked").content == alone["inked"]
    changed = server.yaml.replace("  old:", "  aged:").replace("default_mode: plain", "default_mode: aged")
    new = server.file.with_suffix(".new")
    new.write_text(changed)
    new.replace(server.file)  # as editors do
    server.until(lambda: server.modes()["default_mode"] == "aged")
    assert server.modes()["error"] is None
    answer = server.draw()
    assert (answer.content, answer.headers["X-Mode"]) == (alone["old"], "aged")
    assert server.draw("old").status_code == 422


def test_what_was_switched_to_stays_until_the_file_names_another(serve: Serve) -> None:
    server = serve()
    server.http.post("/api/modes/switch", json={"mode": "inked"})
    assert server.http.post("/api/modes/reload").json()["default_mode"] == "inked"
    server.file.write_text(server.yaml.replace("default_mode: plain", "default_mode: old"))
    assert server.http.post("/api/modes/reload").json()["default_mode"] == "old"


def test_models_are_loaded_and_let_go_of_by_hand(serve: Serve, alone: dict[str, bytes]) -> None:
    server = serve()
    assert server.http.post("/api/models/load", json={"mode": "other"}).json() == {"status": "loaded", "mode": "other"}
    assert server.http.post("/api/models/unload").json() == {"status": "unloaded", "mode": "plain"}
    assert [model["name"] for model in server.http.get("/api/vram").json()["models"]] == ["other"]
    again = server.http.post("/api/models/unload", json={"mode": "plain"})
    assert (again.status_code, again.json()["type"]) == (409, "conflict")
    assert server.http.get("/sdapi/v1/loras").status_code == 200  # told by the files of a model that is not there
    assert server.draw().content == alone["plain"]
    told = server.http.get("/api/models/status").json()
    assert (told["current_mode"], told["loads"], told["unloads"]) == ("plain", 3, 1)
    assert 'imagegen_mode_images_total{mode="plain"} 1.0' in server.http.get("/metrics").text
    assert 'imagegen_model_bytes{host="",model="one",state="ready"}' in server.http.get("/metrics").text


def test_openais_clients_see_modes_as_models(serve: Serve, alone: dict[str, bytes]) -> None:
    server = serve()
    client = OpenAI(base_url=f"{server.url}/v1", api_key="any")
    assert [model.id for model in client.models.list()] == list(NAMES)
    answer = client.images.generate(prompt="a star", model="old", extra_body={"seed": SEED})
    assert base64.b64decode(answer.data[0].b64_json or "") == alone["old"]  # type: ignore[index]
    assert server.http.get("/v1/models/inked").json()["id"] == "inked"
    assert server.http.get("/v1/models/nix").status_code == 404


def test_a1111s_clients_see_modes_as_checkpoints(serve: Serve, alone: dict[str, bytes]) -> None:
    server = serve()
    listed = server.http.get("/sdapi/v1/sd-models").json()
    assert [one["title"] for one in listed] == list(NAMES)
    body = {"prompt": "a star", "seed": SEED, "override_settings": {"sd_model_checkpoint": "old"}}

    def picture(body: dict[str, Any]) -> bytes:
        return base64.b64decode(server.http.post("/sdapi/v1/txt2img", json=body).json()["images"][0])

    assert picture(body) == alone["old"]
    assert server.http.post("/sdapi/v1/options", json={"sd_model_checkpoint": "inked"}).status_code == 200
    assert server.http.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == "inked"
    assert picture({"prompt": "a star", "seed": SEED}) == alone["inked"]
    refused = server.http.post("/sdapi/v1/options", json={"sd_model_checkpoint": "nix"})
    assert "This server draws with plain or inked or other or old alone" in refused.text
    assert server.draw().content == alone["plain"]


def test_a_posted_job_has_a_mode_and_keeps_it(serve: Serve, alone: dict[str, bytes]) -> None:
    server = serve()
    job = server.http.post("/v1/jobs", json={"prompt": "a star", "seed": SEED, "mode": "old"}).json()
    server.http.post("/api/modes/switch", json={"mode": "other"})
    done = server.until(lambda: (told := server.http.get(f"/v1/jobs/{job['id']}").json())["image"] and told)
    answer = server.http.get(done["image"])
    assert (answer.content, answer.headers["X-Mode"]) == (alone["old"], "old")


def test_modes_are_behind_the_keys(serve: Serve) -> None:
    server = serve(api_keys="secret")
    for method, path in (("GET", "modes"), ("POST", "modes/reload"), ("GET", "vram"), ("GET", "models/status")):
        assert server.http.request(method, f"/api/{path}").status_code == 401
    for path in ("modes/switch", "models/load", "models/unload"):
        assert server.http.post(f"/api/{path}", json={"mode": "old"}).status_code == 401
    assert server.http.get("/api/modes", headers={"X-API-Key": "secret"}).status_code == 200


@pytest.mark.parametrize("copies", [{"num_workers": 2}, {"device": "cpu,cpu"}], ids=str)
def test_a_pool_of_copies_draws_each_mode(serve: Serve, alone: dict[str, bytes], copies: dict[str, Any]) -> None:
    server = serve(**copies, memory_budget=2 * ROOM_FOR_TWO)
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(lambda name: (name, server.draw(name).content), NAMES))
    assert dict(answers) == alone
    steps = server.http.get("/health").json()["engine"]["steps"]
    assert sum(int(rows) * count for rows, count in steps.items()) >= CLIENTS
    told = server.http.get("/api/vram").json()
    assert all(8e6 < model["vram_gb"] * 1e9 < 10e6 for model in told["models"])
    assert [device["device"] for device in told["devices"]] == ["cpu"]
    assert {"device": told["device"], "total_gb": told["total_gb"]}.items() <= told["devices"][0].items()


def test_each_copy_has_the_loras_and_computes_with_its_own_neighbour(serve: Serve) -> None:
    server = serve(num_workers=2, memory_budget=2 * ROOM_FOR_TWO)
    for name in ("inked", "other"):
        assert server.http.post("/api/models/load", json={"mode": name}).status_code == 200
    model = server.app.state.context.mode_manager
    inked, other = (model.models.engine(model.modes.find(name)) for name in ("inked", "other"))
    assert len({worker.memory_bytes() for worker in inked.workers}) == 1
    threads = [[worker.compute(threading.get_ident) for worker in engine.workers] for engine in (inked, other)]
    assert threads[0] == threads[1]
    assert len(set(threads[0])) == 2


def test_an_engine_of_ones_own_is_the_only_mode(tiny_worker: Any, zoo: Zoo, tmp_path: Path) -> None:
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
            told = http.get("/api/modes").json()
            assert (told["default_mode"], list(told["modes"])) == ("default", ["default"])
            assert http.post("/api/modes/reload").json()["detail"].startswith("This server has one mode, drawn by the")
            assert http.post("/api/models/unload").status_code == 409
            assert [one["bytes"] for one in http.get("/health").json()["models"]] == [tiny_worker.memory_bytes()]
            assert http.post("/api/modes/switch", json={"mode": "default"}).json()["status"] == "already_loaded"


def test_forty_switches_under_load_fail_nobody_and_leave_nothing_behind(serve: Serve, alone: dict[str, bytes]) -> None:
    server = serve(memory_budget=ROOM_FOR_TWO)
    for name in NAMES:
        assert server.draw(name).content == alone[name]
    before = _held()
    over, wrong = threading.Event(), []

    def draw_on(number: int) -> int:
        chosen, drawn = random.Random(number), 0
        with httpx.Client(base_url=server.url, timeout=LONG) as http:
            while not over.is_set():
                name = chosen.choice(NAMES)
                answer = http.post("/generate", json={"prompt": "a star", "seed": SEED, "mode": name})
                if answer.status_code != 200 or answer.content != alone[name]:
                    wrong.append((name, answer.status_code, answer.text[:200]))
                drawn += 1
        return drawn

    with ThreadPoolExecutor(CLIENTS) as pool:
        drawing = [pool.submit(draw_on, number) for number in range(CLIENTS)]
        try:
            for turn in range(SWITCHES):
                name = NAMES[turn % len(NAMES)]
                told = server.http.post("/api/modes/switch", json={"mode": name})
                assert told.status_code == 200, told.text
                assert server.draw(name).content == alone[name]
        finally:
            over.set()
        assert sum(one.result() for one in drawing) > SWITCHES / 4
    assert wrong == []
    told = server.http.get("/api/models/status").json()
    assert told["unloads"] >= SWITCHES / 8
    assert sum(model["vram_gb"] for model in told["vram"]["models"]) * 1e9 <= ROOM_FOR_TWO
    for name in NAMES:
        assert server.draw(name).content == alone[name]
    server.until(lambda: _no_more(before))


def _held() -> tuple[int, int, int]:
    """Living tensors, threads and descriptors; what the collector would let go of does not count."""
    gc.collect()
    tensors = sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())
    threads = [one for one in threading.enumerate() if one.name.startswith("imagegen")]
    return tensors, len(threads), psutil.Process().num_fds()


def _no_more(before: tuple[int, int, int]) -> bool:
    tensors, threads, descriptors = _held()
    return tensors <= 1.02 * before[0] and threads <= before[1] and descriptors <= before[2]
