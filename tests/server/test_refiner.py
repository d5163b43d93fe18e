"""A refiner over HTTP: by its mode's or checkpoint's name, from a mode's defaults, and from A1111's clients."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from PIL import Image

from imagegen_core import Settings, read_recipe
from imagegen_core.server import create_app
from imagegen_core.shortcuts import generate
from tests.checkpoints import save_sdxl, save_sdxl_refiner
from tests.server.conftest import listening
from tests.waiting import until

LONG = 240.0  # seconds; models are loaded and tested meanwhile, perhaps on a busy machine
YAML = """\
model_root: {root}
default_mode: base
modes:
  base:
    model: tiny-sdxl
    default_size: 64x48
    default_steps: 8
  polished:
    model: tiny-sdxl
    default_size: 64x48
    default_steps: 8
    refiner: refiner
    switch_at: 0.5
  refiner:
    model: tiny-refiner
  inked:
    model: tiny-sdxl
    loras: [ink.safetensors]
"""
DRAWN = {"prompt": "a lake", "seed": 3, "scheduler": "Euler a", "guidance_scale": 3.0}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refiners")
    save_sdxl(folder / "tiny-sdxl")
    save_sdxl_refiner(folder / "tiny-refiner")
    (folder / "modes.yaml").write_text(YAML.format(root=folder))
    return folder


@pytest.fixture(scope="module")
def settings(root: Path) -> Settings:
    return Settings.load(environ={}, modes_file=root / "modes.yaml", device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def http(settings: Settings) -> Iterator[httpx.Client]:
    with listening(create_app(settings)) as url, httpx.Client(base_url=url, timeout=LONG) as client:
        until(lambda: client.get("/ready").status_code == 200, LONG)
        yield client


@pytest.fixture(scope="module")
def expected(root: Path) -> dict[float, bytes]:
    """The pictures from Python, by their switch."""
    plain = Settings.load(environ={}, model_root=root, device="cpu", dtype="fp32")
    fields: dict[str, Any] = {**DRAWN, "size": "64x48", "num_inference_steps": 8, "model": "tiny-sdxl"}
    return {
        switch_at: generate(**fields, refiner="tiny-refiner", switch_at=switch_at, settings=plain).png
        for switch_at in (0.5, 0.8)
    }


def test_requests_name_a_refiner(http: httpx.Client, expected: dict[float, bytes]) -> None:
    for name in ("refiner", "tiny-refiner"):
        assert http.post("/generate", json={**DRAWN, "refiner": name}).content == expected[0.8]
    body = {**DRAWN, "refiner": "refiner", "switch_at": 0.5}
    assert http.post("/generate", json=body).content == expected[0.5]
    form = {name: str(value) for name, value in body.items()}
    assert http.post("/generate", files={name: (None, value) for name, value in form.items()}).content == expected[0.5]
    answer = http.post("/v1/images/generations", json={**body, "response_format": "b64_json"}).json()
    assert base64.b64decode(answer["data"][0]["b64_json"]) == expected[0.5]


def test_a_mode_has_a_refiner_and_a_request_can_leave_it_out(http: httpx.Client, expected: dict[float, bytes]) -> None:
    polished = {**DRAWN, "mode": "polished"}
    assert http.post("/generate", json=polished).content == expected[0.5]
    assert http.post("/generate", json={**polished, "switch_at": 0.8}).content == expected[0.8]
    plain = http.post("/generate", json={**polished, "refiner": ""}).content
    assert plain == http.post("/generate", json=DRAWN).content
    assert read_recipe(plain).refiner is None
    modes = http.get("/api/modes").json()["modes"]
    assert (modes["polished"]["refiner"], modes["polished"]["switch_at"]) == ("refiner", 0.5)


def test_a_job_counts_the_steps_of_both_models(http: httpx.Client, expected: dict[float, bytes]) -> None:
    job = http.post("/v1/jobs", json={**DRAWN, "mode": "polished"}).json()
    events = http.get(f"/v1/jobs/{job['id']}/events").text
    steps = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: ") and '"step"' in line]
    assert [(step["step"], step["steps"]) for step in steps] == [(number, 8) for number in range(1, 9)]
    assert events.count("event: started") == 1
    assert http.get(f"/v1/jobs/{job['id']}/image").content == expected[0.5]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"refiner": "other"}, "Unknown refiner 'other': expected one of base, polished, refiner, inked"),
        ({"refiner": "inked"}, "Invalid refiner 'inked': this mode has LoRAs, and a refiner draws without"),
        ({"refiner": "refiner", "switch_at": 1}, "Invalid switch_at 1.0: expected a number between 0 and 1"),
        ({"switch_at": 0.5}, "switch_at needs a refiner"),
        ({"refiner": "refiner", "hires": {"scale": 2}}, "leave hires out, or set refiner to ''"),
        ({"refiner": "refiner", "switch_at": 0.9999}, "none of the 8 steps is left to the refiner"),
    ],
)
def test_wrong_refiners_are_refused(http: httpx.Client, fields: dict[str, Any], sentence: str) -> None:
    response = http.post("/generate", json={**DRAWN, **fields})
    assert response.status_code == 422
    assert sentence in response.json()["detail"]


A1111 = {
    "prompt": "a lake",
    "seed": 3,
    "sampler_name": "Euler a",
    "cfg_scale": 3,
    "width": 64,
    "height": 48,
    "steps": 8,
}


def drawn_by_a1111(http: httpx.Client, **fields: Any) -> bytes:
    answer = http.post("/sdapi/v1/txt2img", json={**A1111, **fields})
    assert answer.status_code == 200, answer.text
    return base64.b64decode(answer.json()["images"][0])


@pytest.mark.parametrize(
    ("value", "switch_at"),
    # By A1111's rule, the refiner takes timesteps up to 999 - 1000 times the value.
    [(0.8, 0.8), (0.7995, 0.8), (0.5, 0.5)],
)
def test_a1111s_fields_are_heeded(http: httpx.Client, value: float, switch_at: float) -> None:
    names = ("refiner", "tiny-refiner", "tiny-refiner [0123456789]")
    pngs = [drawn_by_a1111(http, refiner_checkpoint=name, refiner_switch_at=value) for name in names]
    recipe = read_recipe(pngs[0])
    assert (recipe.refiner, recipe.switch_at) == ("tiny-refiner", switch_at)
    infotext = Image.open(io.BytesIO(pngs[0])).info["parameters"]
    assert f"Refiner: tiny-refiner [{recipe.refiner_hash}], Refiner switch at: {switch_at:g}" in infotext
    body = recipe.request().model_dump(exclude_unset=True, exclude_none=True)
    drawn = {_pixels(png) for png in [*pngs, http.post("/generate", json=body).content]}
    assert len(drawn) == 1
    assert _pixels(http.post("/generate", json=body | {"switch_at": 0.3}).content) not in drawn


@pytest.mark.parametrize(
    "fields",
    [
        {"refiner_checkpoint": None, "refiner_switch_at": 0.8},
        {"refiner_checkpoint": "", "refiner_switch_at": 0.8},
        {"refiner_checkpoint": "None"},
        {"refiner_checkpoint": "refiner", "refiner_switch_at": 1},
        {"refiner_checkpoint": "base", "refiner_switch_at": 0.5},
    ],
)
def test_a1111s_values_for_no_refiner(http: httpx.Client, fields: dict[str, Any]) -> None:
    assert read_recipe(drawn_by_a1111(http, **fields)).refiner is None


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"refiner_checkpoint": "other"}, "Invalid refiner_checkpoint 'other'. This server draws only with base or"),
        ({"refiner_checkpoint": "refiner"}, "Invalid refiner_switch_at None: the refiner would draw all steps"),
        ({"refiner_checkpoint": "refiner", "refiner_switch_at": 0}, "Invalid refiner_switch_at 0.0"),
    ],
)
def test_a1111s_wrong_refiners_are_refused(http: httpx.Client, fields: dict[str, Any], sentence: str) -> None:
    response = http.post("/sdapi/v1/txt2img", json={**A1111, **fields})
    assert response.status_code == 422
    assert sentence in response.json()["detail"]


def _pixels(png: bytes) -> bytes:
    return Image.open(io.BytesIO(png)).tobytes()
