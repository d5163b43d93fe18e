"""Pictures of any pipeline equal those of its own call, through the worker, the engine, the command line and HTTP."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import diffusers
import httpx2 as httpx
import numpy as np
import pytest
import torch
from PIL import Image

from imagegen_core import GenerateRequest, Job, LocalEngine, Picture, Settings, StepDone, read_recipe
from imagegen_core.cli import main
from imagegen_core.picture_files.decode import read_picture
from imagegen_core.server import create_app
from tests.engine.faults import Gate
from tests.pipelines.checkpoints import PIPELINES
from tests.pipelines.conftest import settings_for
from tests.server.conftest import listening
from tests.waiting import until

# The pipeline of Kandinsky 2.2 passes a deprecated argument to its own decoder.
pytestmark = pytest.mark.filterwarnings("ignore:`callback_steps` is deprecated:FutureWarning")

PROMPT = "a red lake"
GUIDED: dict[str, Any] = {"guidance_scale": 3.0, "negative_prompt": "green"}

Folder = Callable[[str], Path]
WorkerOf = Callable[[str], Any]


def _ask(**fields: Any) -> GenerateRequest:
    return GenerateRequest(**{"prompt": PROMPT, "size": "64x64", "seed": 7, "num_inference_steps": 2, **fields})


def _plain(folder: Path, **arguments: Any) -> bytes:
    """Return the pixels of the plain pipeline's own call."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    asked = {"prompt": PROMPT, "height": 64, "width": 64, "num_inference_steps": 2, "guidance_scale": 1.0, **arguments}
    return _pixels(pipe(generator=torch.Generator("cpu").manual_seed(7), **asked).images[0])


def _pixels(image: Image.Image) -> bytes:
    return np.asarray(image.convert("RGB")).tobytes()


@pytest.mark.parametrize("fields", [{}, GUIDED], ids=["plain", "guided"])
@pytest.mark.parametrize("name", PIPELINES)
def test_a_picture_is_that_of_the_pipelines_own_call(
    folder: Folder, worker_of: WorkerOf, name: str, fields: dict[str, Any]
) -> None:
    picture = Picture(*worker_of(name).run_job_with_latents(Job(req=_ask(**fields))))
    assert _pixels(picture.image) == _plain(folder(name), **fields)


@pytest.mark.parametrize("name", PIPELINES)
def test_steps_and_previews_arrive_and_change_nothing(worker_of: WorkerOf, name: str) -> None:
    alone = Picture(*worker_of(name).run_job_with_latents(Job(req=_ask(num_inference_steps=3))))
    with LocalEngine(worker_of(name), previews=True) as engine:
        ticket = engine.submit(_ask(num_inference_steps=3))
        assert ticket.result(60) == alone
    steps = [event for event in ticket.events if isinstance(event, StepDone)]
    assert [(event.step, event.steps) for event in steps] == [(1, 3), (2, 3), (3, 3)]
    previews = [read_picture(event.preview or b"", png_only=True).convert("RGB") for event in steps]
    assert all(len(set(np.asarray(preview).reshape(-1, 3).sum(1))) > 1 for preview in previews)


@pytest.mark.parametrize("name", PIPELINES)
def test_the_last_preview_resembles_the_picture(worker_of: WorkerOf, name: str) -> None:
    previews: list[bytes] = []
    job = Job(req=_ask(), on_step=lambda done: previews.append(done.preview or b""), wants_previews=True)
    picture = Picture(*worker_of(name).run_job_with_latents(job))
    last = np.asarray(Image.open(io.BytesIO(previews[-1])).convert("RGB").resize((8, 8)), float)
    drawn = np.asarray(picture.image.resize((8, 8)), float)
    assert np.abs(last.mean((0, 1)) - drawn.mean((0, 1))).max() < 64


@pytest.mark.parametrize("name", PIPELINES)
def test_a_cancelled_picture_ends_within_its_call_and_leaves_no_trace(
    worker_of: WorkerOf, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, gate, steps = worker_of(name), Gate(), []

    def give_way() -> None:  # the end of a step, also of an earlier stage
        steps.append(1)
        gate()

    monkeypatch.setattr(worker, "give_way", give_way)
    alone = Picture(*worker.run_job_with_latents(Job(req=_ask())))
    of_a_picture = len(steps)
    with LocalEngine(worker) as engine:
        gate.shut()
        leaving = engine.submit(_ask(num_inference_steps=40))
        assert gate.reached.wait(60)
        leaving.cancel()
        gate.open()
        assert engine.submit(_ask()).result(60) == alone
        with pytest.raises(CancelledError):
            leaving.result(60)
    assert len(steps) == of_a_picture + 1 + of_a_picture


def _run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return int(caught.value.code or 0), *capfd.readouterr()


@pytest.mark.parametrize("name", ["z-image", "kandinsky"])
def test_the_command_line_draws_and_replays(
    folder: Folder, name: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_DEVICE", "cpu")
    monkeypatch.setenv("CUDA_DTYPE", "fp32")
    asked = ("--size", "64x64", "--steps", "2", "--seed", "7", "--model", str(folder(name)), "-o", "out.png")
    assert _run(capfd, "generate", PROMPT, *asked)[0] == 0
    assert _pixels(Image.open("out.png")) == _plain(folder(name))
    recipe = read_recipe(Path("out.png"))
    assert (recipe.backend, recipe.checkpoint, recipe.scheduler) == ("diffusers", f"tiny-{name}", None)
    monkeypatch.setenv("MODEL_ROOT", str(folder(name).parent))
    capfd.readouterr()
    code, _, err = _run(capfd, "replay", "out.png")
    assert (code, err) == (0, "replayed.png  the same bytes\n")


def test_a_pipeline_is_described_without_loading_it(folder: Folder, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _run(capfd, "models", "inspect", str(folder("pixart")), "--json")
    described = json.loads(out)
    assert code == 0
    assert (described["format"], described["native_size"]) == ("diffusers-pipeline", "256x256")
    assert set(described["components"]) == {"tokenizer", "text_encoder", "vae", "transformer", "scheduler"}


@pytest.fixture
def http(folder: Folder) -> Iterator[httpx.Client]:
    with (
        listening(create_app(settings_for(folder("z-image")))) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        until(lambda: client.get("/ready").is_success)
        yield client


def test_the_server_draws(http: httpx.Client, folder: Folder) -> None:
    body = {"prompt": PROMPT, "size": "64x64", "seed": 7, "num_inference_steps": 2}
    response = http.post("/generate", json=body)
    assert response.status_code == 200, response.text
    expected = _plain(folder("z-image"))
    assert _pixels(Image.open(io.BytesIO(response.content))) == expected
    refused = http.post("/generate", json={**body, "clip_skip": 1})
    assert refused.status_code == 422
    assert "a ZImagePipeline: its call does not take it" in refused.text
    openai = http.post("/v1/images/generations", json={**body, "response_format": "b64_json"})
    assert openai.status_code == 200, openai.text
    drawn = base64.b64decode(openai.json()["data"][0]["b64_json"])
    assert _pixels(Image.open(io.BytesIO(drawn))) == expected
    assert http.get("/api/vram").json()["models"][0]["vram_gb"] > 0


def test_a_mode_draws_beside_another_family_and_takes_turns_with_it(
    folder: Folder, sdxl_checkpoint: Path, tmp_path: Path
) -> None:
    modes = {"sdxl": sdxl_checkpoint, "z-image": folder("z-image")}
    (tmp_path / "modes.yaml").write_text(
        f"model_root: {tmp_path}\nlora_root: {tmp_path}\ndefault_mode: sdxl\nmodes:\n"
        + "".join(f"  {name}:\n    model: {path}\n" for name, path in modes.items())
    )
    settings = Settings.load(
        environ={}, modes_file=tmp_path / "modes.yaml", device="cpu", dtype="fp32", memory_budget=10**9
    )
    app = create_app(settings)
    with listening(app) as url, httpx.Client(base_url=url, timeout=60) as client:
        until(lambda: client.get("/ready").is_success)
        body = {"prompt": PROMPT, "size": "64x64", "seed": 7, "num_inference_steps": 2}
        drawn = {name: client.post("/generate", json={**body, "mode": name}).content for name in modes}
        manager = app.state.context.mode_manager
        workers = [manager.models.engine(manager.modes.find(name)).worker for name in modes]
    assert _pixels(Image.open(io.BytesIO(drawn["z-image"]))) == _plain(folder("z-image"))
    assert [read_recipe(png).backend for png in drawn.values()] == ["sdxl", "diffusers"]
    assert len({worker.compute(threading.get_ident) for worker in workers}) == 1
