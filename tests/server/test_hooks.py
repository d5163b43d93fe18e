"""Plugins' hooks and routes on the server: containment, limits, and a public way to draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from imagegen_core import read_recipe
from tests.engine.faults import Gate
from tests.plugins.installed import Installer
from tests.server.conftest import Running, StartServer

HEAD = "from imagegen_core import hookimpl, GenerateRequest, InvalidRequestError, Picture\n"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installer:
    return Installer(tmp_path / "site-packages", monkeypatch)


_SOMETIMES = """
@hookimpl
def imagegen_request(request):
    if request.prompt == "fails in request": 1 / 0
    if request.prompt == "forbidden": raise InvalidRequestError("Not here: ask for a lake", "prompt")
    if request.prompt == "huge": return request.model_copy(update={"size": "8192x8192"})
    if request.prompt == "long": return request.model_copy(update={"prompt": "x" * 20_000})
@hookimpl
def imagegen_picture(picture, request):
    if request.prompt == "fails in picture": 1 / 0
@hookimpl
def imagegen_job_event(job, event): 1 / 0
@hookimpl
def imagegen_startup(settings): 1 / 0
"""


@pytest.mark.parametrize(
    ("prompt", "status", "words"),
    [
        ("fails in request", 500, "The plugin bad (imagegen-bad 1.0) raised ZeroDivisionError: division by zero in"),
        ("fails in picture", 500, "The plugin bad (imagegen-bad 1.0) raised ZeroDivisionError: division by zero in"),
        ("forbidden", 422, "Not here: ask for a lake"),
        ("huge", 422, "Invalid size 8192x8192: this server draws up to"),
        ("long", 422, "Invalid prompt of 20000 characters"),
    ],
)
def test_a_failing_hook_costs_one_request(
    install: Installer, serve: StartServer, prompt: str, status: int, words: str
) -> None:
    install.add("bad", HEAD + _SOMETIMES)
    server = serve()
    before = server.draw().content
    response = server.draw(prompt=prompt)
    assert response.status_code == status
    assert words in response.json()["detail"]
    assert server.draw().content == before
    assert server.http.get("/ready").status_code == 200


_CHANGES = """
import dataclasses, imagegen_core, numpy
@hookimpl
def imagegen_request(request): return request.model_copy(update={"prompt": request.prompt + f", {request.seed}"})
@hookimpl
def imagegen_picture(picture, request):
    return dataclasses.replace(picture, png=imagegen_core.encode_png(255 - numpy.asarray(picture.image)))
"""


def test_hooks_act_on_every_route_for_each_picture(install: Installer, serve: StartServer) -> None:
    import base64

    install.add("mine", HEAD + _CHANGES)
    server = serve()
    body = {"prompt": "a star", "size": "64x64", "seed": 7}
    drawn = server.http.post("/generate", json=body)
    recipe = read_recipe(drawn.content)
    assert (recipe.prompt, recipe.processors) == ("a star, 7", ("imagegen-mine 1.0",))
    assert drawn.headers["X-Seed"] == "7"
    data = server.http.post("/v1/images/generations", json=body | {"n": 2}).json()["data"]
    pictures = [base64.b64decode(each["b64_json"]) for each in data]
    assert pictures[0] == drawn.content
    assert read_recipe(pictures[1]).prompt == "a star, 8"
    asked = {"prompt": "a star", "width": 64, "height": 64, "seed": 7, "steps": 4, "cfg_scale": 1, "n_iter": 2}
    images = server.http.post("/sdapi/v1/txt2img", json=asked).json()["images"]
    assert [read_recipe(base64.b64decode(image)).prompt for image in images] == ["a star, 7", "a star, 8"]
    upscaled = server.http.post("/generate", json=body | {"superres": True})
    assert read_recipe(upscaled.content).processors == ("imagegen-mine 1.0",)


_ROUTE = """
from typing import Annotated
@hookimpl
def imagegen_routes(app):
    from fastapi import Depends, Response
    from imagegen_core.server import Pictures

    @app.get("/cats")
    async def cats(pictures: Annotated[Pictures, Depends()], count: int = 1, steps: int = 2) -> Response:
        asked = [GenerateRequest(prompt="a cat", seed=n, num_inference_steps=steps) for n in range(count)]
        drawn = await pictures.draw_all(asked)
        return Response(b"".join(picture.png for picture in drawn), media_type="image/png")

    @app.get("/cat")
    async def cat(pictures: Annotated[Pictures, Depends()], mode: str | None = None) -> Response:
        picture = await pictures.draw(GenerateRequest(prompt="a cat", seed=7), mode)
        return Response(picture.png, media_type="image/png")
"""


@pytest.fixture
def cats(install: Installer, serve: StartServer) -> Running:
    install.add("cats", HEAD + _ROUTE)
    return serve(default_steps=2)


def test_a_route_draws_as_the_servers_own_do(cats: Running) -> None:
    own = [cats.http.post("/generate", json={"prompt": "a cat", "seed": seed}).content for seed in (0, 1, 7)]
    assert cats.http.get("/cat").content == own[2]
    assert cats.http.get("/cats", params={"count": 2}).content == own[0] + own[1]


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [("/cat?mode=nix", 422, "Unknown mode 'nix'"), ("/cats?steps=999", 422, "this server takes 1 to 150")],
)
def test_a_routes_errors_are_the_servers(cats: Running, path: str, status: int, words: str) -> None:
    response = cats.http.get(path)
    assert (response.status_code, response.json()["type"]) == (status, "invalid_request")
    assert words in response.json()["detail"]


def test_a_client_that_hangs_up_cancels_a_routes_pictures(cats: Running) -> None:
    gate = cats.worker.before["step"] = Gate(shut=True)
    with pytest.raises(httpx.TimeoutException):
        cats.http.get("/cats", params={"count": 3}, timeout=0.5)
    gate.open()
    cats.until(lambda: cats.report().cancelled == 3)


def test_an_engine_of_another_kind_is_refused_if_a_plugin_changes_pictures(
    install: Installer, tiny_worker: Any
) -> None:
    from imagegen_core import LocalEngine, Settings, SettingsError
    from imagegen_core.server import create_app

    class Foreign:
        def __init__(self, engine: LocalEngine) -> None:
            self.engine = engine

        def __getattr__(self, name: str) -> Any:
            return getattr(self.engine, name)

    install.add("mine", HEAD + _CHANGES)
    with (
        LocalEngine(tiny_worker) as engine,
        pytest.raises(SettingsError, match="A plugin changes pictures .*, and the engine Foreign calls no plugins"),
    ):
        create_app(Settings.load(environ={}), Foreign(engine))
