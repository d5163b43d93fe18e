"""/storage, /health, /ready, /metrics, and the plugin hook for routes."""

from __future__ import annotations

import re
import uuid
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI

from imagegen_core import NumericsPlan, Registry, Size, StorageError, hookimpl, read_recipe
from imagegen_core.plugins.discovery import Plugin
from imagegen_core.server import create_app
from imagegen_core.settings import Settings
from tests.engine.faults import Gate
from tests.server.conftest import LIMIT, Running, StartServer, listening

PNG = b"\x89PNG\r\n\x1a\nrest"


def test_pictures_are_stored_fetched_and_deleted(server: Running) -> None:
    assert server.http.put("/storage/mine", content=PNG).status_code == 204
    for name in ("mine", "mine.png"):
        response = server.http.get(f"/storage/{name}")
        assert (response.content, response.headers["content-type"]) == (PNG, "image/png")
    assert server.http.delete("/storage/mine").status_code == 204
    assert server.http.delete("/storage/mine").status_code == 404
    assert server.http.get("/storage/mine").status_code == 404


@pytest.mark.parametrize("key", ["..%2F..%2Fetc%2Fpasswd", "%2Fetc%2Fpasswd", ".hidden", "a" * 200, "a%00b", "a b"])
def test_no_key_leads_out_of_the_store(server: Running, key: str) -> None:
    for method in ("GET", "PUT", "DELETE"):
        assert server.http.request(method, f"/storage/{key}", content=PNG).status_code in (404, 405, 422)


def test_only_pictures_are_stored(server: Running) -> None:
    response = server.http.put("/storage/mine", content=b"<script>")
    assert (response.status_code, response.json()["field"]) == (422, "body")


def test_store_reports_its_health(server: Running) -> None:
    assert server.http.get("/storage/health").json() == {"status": "ok", "provider": "memory"}


def test_pictures_are_drawn_without_storage(serve: StartServer) -> None:
    server = serve(storage_provider="disabled")
    response = server.draw()
    assert response.status_code == 200
    assert "X-LCM-Image-Key" not in response.headers
    assert server.http.get("/storage/health").status_code == 404


def test_storage_routes_can_be_disabled(serve: StartServer) -> None:
    server = serve(storage_enable_http=False)
    assert server.http.get(f"/storage/{server.draw().headers['X-LCM-Image-Key']}").status_code == 404


def test_failing_store_loses_no_picture(server: Running) -> None:
    context = server.app.state.context

    class Broken:
        def put(self, *_: Any) -> None:
            raise StorageError("it does not work: mend it")

        get = delete = check = put

    context.store = Broken()
    response = server.draw()
    assert response.status_code == 200
    assert "X-LCM-Image-Key" not in response.headers
    assert 'imagegen_failures_total{kind="storage"} 1.0' in server.http.get("/metrics").text
    failed = server.http.get("/storage/health")
    assert (failed.status_code, failed.json()["detail"]) == (503, "it does not work: mend it")


def test_health_reports_the_engines_work(server: Running) -> None:
    server.draw()
    health = server.http.get("/health").json()
    assert (health["status"], health["model"], health["engine"]["finished"]) == ("ok", "ready", 1)


def test_health_states_the_numerics_plan_of_the_pictures(server: Running) -> None:
    (model,) = server.http.get("/health").json()["models"]
    plan = NumericsPlan(**model["numerics"])
    assert plan == server.worker.numerics
    recipe = read_recipe(server.draw(size="64x64").content)
    assert recipe.numerics == plan.of_picture(Size(64, 64))
    assert (recipe.dtype, recipe.versions) == (plan.precision, plan.versions)


def test_ready_reports_that_no_engine_draws(serve: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve()
    assert server.http.get("/ready").status_code == 200
    monkeypatch.setattr(
        server.app.state.context.mode_manager.models, "report", lambda: None
    )  # as after the loss of all replicas
    response = server.http.get("/ready")
    assert (response.status_code, response.json()) == (
        503,
        {"status": "loading", "detail": "no replica draws at the moment"},
    )


def test_ready_reports_a_broken_engine(serve: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve()
    monkeypatch.setattr(server.engine, "_step", lambda _: 1 / 0)
    assert server.draw().status_code == 503
    response = server.http.get("/ready")
    expected = {"status": "broken", "detail": "an engine broke: the log says why"}
    assert (response.status_code, response.json()) == (503, expected)
    assert server.http.get("/health").json()["engine"]["broken"] == 1


def test_ready_reports_a_full_queue(serve: StartServer) -> None:
    server = serve(queue_limit=1, queue_max=1)
    assert server.http.get("/ready").json()["status"] == "ready"
    gate = Gate(shut=True)
    server.worker.before["step"] = lambda *_: gate()
    for _ in range(2):
        server.http.post("/v1/jobs", json={"prompt": "a star", "size": "64x64"})
        assert gate.reached.wait(LIMIT)
    response = server.http.get("/ready")
    assert (response.status_code, response.json()["status"]) == (503, "full")
    gate.open()
    server.until(lambda: server.http.get("/ready").status_code == 200)


def test_server_survives_a_model_that_cannot_be_loaded() -> None:
    import httpx2 as httpx

    settings = Settings.load(environ={}, model="/nowhere/model.safetensors")
    with listening(create_app(settings)) as url, httpx.Client(base_url=url, timeout=LIMIT) as http:
        while (response := http.get("/ready")).json()["status"] == "loading":
            pass
        assert (response.status_code, response.json()["status"]) == (503, "failed")
        assert "/nowhere/model.safetensors" in response.json()["detail"]
        assert http.get("/health").json()["model"] == "failed"
        refused = http.post("/generate", json={"prompt": "a star"})
        assert (refused.status_code, refused.json()["type"], "Retry-After" in refused.headers) == (
            503,
            "not_ready",
            True,
        )
        assert "The model could not be loaded: " in refused.json()["detail"]
        assert http.get("/v1/models").json()["error"]["code"] == "not_ready"


def test_metrics_count_pictures_failures_and_responses(server: Running) -> None:
    server.draw()
    server.draw(size="12by7")
    server.draw(clip_skip=99)
    text = server.http.get("/metrics").text

    def value(name: str) -> float:
        match = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        assert match, name
        return float(match[1])

    assert value("imagegen_images_total") == 1
    assert value('imagegen_failures_total{kind="invalid_request"}') == 1
    assert value('imagegen_http_responses_total{route="/generate",status="422"}') == 2
    assert value("imagegen_wait_seconds_count") == 1
    assert value('imagegen_steps_total{rows="1"}') == 4
    assert value("imagegen_queue_depth") == 0
    assert value("imagegen_resident_bytes") > 1e6
    assert value("imagegen_ready") == 1


class _Routes:
    @hookimpl
    def imagegen_routes(self, app: APIRouter) -> None:
        @app.get("/mine")
        async def mine() -> str:
            return "here"


def test_plugin_routes_need_a_key(serve: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = Plugin("mine", "imagegen-mine", "1.0")
    registry = Registry([(plugin, _Routes())])  # type: ignore[list-item]
    monkeypatch.setattr(Registry, "discover", lambda *_: registry)
    server = serve(api_keys="right")
    assert server.http.get("/mine").status_code == 401
    assert server.http.get("/mine", headers={"X-API-Key": "right"}).json() == "here"


def test_app_works_mounted_in_another_app(server: Running) -> None:
    outer = FastAPI()
    outer.mount("/pictures", server.app)
    import httpx2 as httpx

    with listening(outer) as url, httpx.Client(base_url=url, timeout=LIMIT) as http:
        assert http.get("/pictures/ready").json()["status"] == "ready"
        refused = http.post("/pictures/v1/images/generations", json={"prompt": "x", "size": "12by7"})
        assert refused.json()["error"]["param"] == "size"
        job = http.post("/pictures/v1/jobs", json={"prompt": "a star", "size": "64x64"}).json()
        assert job["events"].startswith("/pictures/v1/jobs/")
        assert http.get(f"/pictures/storage/{uuid.uuid4()}").status_code == 404


def test_examples_of_the_openapi_document_work(server: Running) -> None:
    schemas = server.http.get("/openapi.json").json()["components"]["schemas"]
    for schema, route in (
        ("GenerateBody", "/generate"),
        ("ImagesBody", "/v1/images/generations"),
        ("Txt2ImgBody", "/sdapi/v1/txt2img"),
    ):
        for example in schemas[schema]["examples"]:
            assert server.http.post(route, json=example).status_code == 200, (route, example)
    assert server.http.get("/docs").status_code == 200
