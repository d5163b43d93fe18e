"""The example of thirty lines draws the same on the command line, in Python and on the server, and replays."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

import imagegen_core
from imagegen_core import GenerateRequest, Job, load_worker, read_recipe
from imagegen_core.cli import main
from tests import postcard
from tests.server.conftest import StartServer, serve, tiny_worker

__all__ = ["serve", "tiny_worker"]

PROMPT, SEED, TEXT = "a __colour__ star", 5, "Hi"


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sdxl_checkpoint: Path) -> None:
    for folder in postcard.install(tmp_path / "installed"):
        monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("MODEL", str(sdxl_checkpoint))
    monkeypatch.setenv("CUDA_DEVICE", "cpu")
    monkeypatch.setenv("CUDA_DTYPE", "fp32")


@pytest.fixture
def posts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    with postcard.webhook() as (address, posts):
        monkeypatch.setenv("POSTCARD_WEBHOOK", address)
        yield posts


def _run(*command: str) -> int:
    with pytest.raises(SystemExit) as exit_info:
        main([*command])
    return int(exit_info.value.code or 0)


def _expected() -> tuple[str, Any]:
    """Return the prompt and the pixels by the worker alone, Python's random numbers and Pillow."""
    prompt = f"a {random.Random(SEED).choice(['red', 'green', 'blue'])} star"
    worker = load_worker()
    png, _ = worker.run_job(Job(req=GenerateRequest(prompt=prompt, seed=SEED)))
    image = Image.open(io.BytesIO(png)).convert("RGB")
    ImageDraw.Draw(image).text((4, image.height - 14), TEXT, fill="white")
    return prompt, np.asarray(image)


def test_a_picture_has_all_three_and_replays_to_the_same_bytes(posts: list[dict[str, Any]], tmp_path: Path) -> None:
    prompt, pixels = _expected()
    assert _run("generate", PROMPT, "--seed", str(SEED), "--set", f"watermark={TEXT}", "-o", "card.png") == 0
    card = Path("card.png").read_bytes()
    recipe = read_recipe(card)
    assert recipe.prompt == prompt
    assert (recipe.parameters, recipe.processors) == ({"watermark": TEXT}, ("imagegen-postcard 0.1.0",))
    assert (np.asarray(Image.open(io.BytesIO(card))) == pixels).all()
    assert [post["seed"] for post in posts] == [SEED]
    assert _run("replay", "card.png", "-o", "again.png") == 0
    assert Path("again.png").read_bytes() == card


def test_python_and_the_server_draw_the_same_bytes(
    posts: list[dict[str, Any]], serve: StartServer, tmp_path: Path
) -> None:
    drawn = imagegen_core.generate(PROMPT, seed=SEED, parameters={"watermark": TEXT})
    server = serve()
    body = {"prompt": PROMPT, "seed": SEED, "watermark": TEXT}
    assert server.http.post("/generate", json=body).content == drawn.png
    posted = server.http.post("/v1/jobs", json=body).json()
    server.until(lambda: len(posts) == 3)
    assert server.http.get(f"/v1/jobs/{posted['id']}/image").content == drawn.png
    assert posts[-1] == {"job": posted["id"], "seed": SEED}


def test_each_picture_of_several_has_its_own_colour(posts: list[dict[str, Any]], tmp_path: Path) -> None:
    assert _run("generate", PROMPT, "--seed", "4", "--count", "3", "--set", "watermark=Hi", "-o", "card.png") == 0
    recipes = [read_recipe(Path(f"card-{number}.png")) for number in (1, 2, 3)]
    colours = [random.Random(seed).choice(["red", "green", "blue"]) for seed in (4, 5, 6)]
    assert [recipe.prompt for recipe in recipes] == [f"a {colour} star" for colour in colours]
    assert len({*colours}) == 2
    assert sorted(post["seed"] for post in posts) == [4, 5, 6]


def test_a_mode_has_a_watermark(tmp_path: Path) -> None:
    Path("imagegen.toml").write_text(f'[modes.card.parameters]\nwatermark = "{TEXT}"\n')
    assert _run("generate", PROMPT, "--mode", "card", "--seed", str(SEED), "-o", "card.png") == 0
    assert read_recipe(Path("card.png")).parameters == {"watermark": TEXT}


def test_an_unknown_parameter_is_refused_before_a_model_loads(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("generate", PROMPT, "--set", "watermrk=x", "--model", "nowhere") == 2
    error = capsys.readouterr().err
    assert "Unknown field 'watermrk', which no installed plugin declares: did you mean watermark?" in error


def test_replay_without_the_plugin_names_the_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run("generate", "a star", "--seed", str(SEED), "--set", f"watermark={TEXT}", "-o", "card.png") == 0
    monkeypatch.setenv("IMAGEGEN_PLUGINS_DISABLED", "postcard")
    assert _run("replay", "card.png", "-o", "again.png") == 2
    error = capsys.readouterr().err
    assert "watermark was Hi, and is None" in error
    assert "processors was ('imagegen-postcard 0.1.0',), and is None" in error


def test_the_list_of_plugins_describes_the_parameter(capfd: pytest.CaptureFixture[str]) -> None:
    assert _run("plugins", "list", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capfd.readouterr().out)}
    (parameter,) = rows["postcard"]["parameters"]
    assert parameter["schema"] == {
        "type": "string",
        "default": "",
        "description": "Text for the lower left corner of the picture.",
    }
    (backend,) = (backend for backend in rows["sdxl"]["backends"] if backend["name"] == "sdxl")
    assert backend["parameters"] == ["watermark"]
    assert "negative_prompt" in backend["fields"]


def test_the_plugin_has_about_thirty_lines() -> None:
    text = (postcard.SOURCE / "imagegen_postcard" / "plugin.py").read_text()
    code = text.partition('requires_contract = "1.0"')[2]
    assert len([line for line in code.splitlines() if line.strip() and '"""' not in line]) <= 32
