"""Hires fix through an upscaler equals plain pipelines and a plain network, in one job that others join."""

from __future__ import annotations

import copy
import gc
import re
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from imagegen_core import (
    GenerateRequest,
    HiresOptions,
    ImagegenError,
    InvalidRequestError,
    Job,
    LocalEngine,
    MicroConditioning,
    OutOfMemoryError,
    Settings,
    StepDone,
    read_recipe,
)
from imagegen_core.cli.app import build_app
from imagegen_core.cli.picture_options import parse_options
from imagegen_core.diffusion import beginnings
from imagegen_core.diffusion.stage_upscaling import StageUpscaling
from imagegen_core.plugins.registry import Registry
from imagegen_core.request import Size
from tests.images import networks
from tests.pictures_in.conftest import FAMILIES, Pair, ask, difference, make_pair, picture

NETWORK = networks.esrgan(blocks=1, growth=32)


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A checkpoint of each family, with a configured network of 2×."""
    return enlarging_pair(request.param, "fp32", tmp_path_factory.mktemp("hires"))


@pytest.fixture(scope="module", params=FAMILIES)
def half_pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The same in bf16."""
    return enlarging_pair(request.param, "bf16", tmp_path_factory.mktemp("hires"))


def enlarging_pair(family: str, dtype: str, folder: Path) -> Pair:
    """Save a tiny checkpoint and a network, and load both with a worker."""
    save_file(NETWORK, folder / "tiny-esrgan.safetensors")
    plain = make_pair(family, folder, dtype=dtype)
    settings = Settings(
        model=str(plain.folder), device="cpu", dtype=dtype, upscaler=str(folder / "tiny-esrgan.safetensors")
    )
    return replace(plain, worker=type(plain.worker)(settings=settings))


def by_network(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Enlarge with spandrel's own network until the picture covers the size, and resize."""
    spandrel = pytest.importorskip("spandrel", reason="imagegen-core[upscale] is not installed")
    model = spandrel.ModelLoader().load_from_state_dict(dict(NETWORK)).model
    while image.width < size[0] or image.height < size[1]:
        values = torch.tensor(np.asarray(image)).permute(2, 0, 1)[None] / 255
        with torch.inference_mode():
            levels = model(values)[0].clamp(0, 1).permute(1, 2, 0).mul(255).round().byte()
        image = Image.fromarray(levels.numpy())
    return image.resize(size, Image.Resampling.LANCZOS)


def by_lanczos(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image.resize(size, Image.Resampling.LANCZOS)


def expected(pair: Pair, sampler: str, size: tuple[int, int], enlarge: Any, **second: Any) -> np.ndarray[Any, Any]:
    """Draw with a plain text-to-image pipeline, enlarge, and draw with a plain image-to-image pipeline."""
    generator = torch.Generator("cpu").manual_seed(7)
    fields: dict[str, Any] = {"guidance_scale": 3.0, "generator": generator, "num_inference_steps": 4}
    first, then = pair.plain(""), pair.plain("Img2Img")
    schedulers = pair.worker._schedulers
    for pipe in (first, then):
        pipe.scheduler = copy.deepcopy(schedulers._prototype(*schedulers._find(sampler, None)).scheduler)
    small = first("a lake at dawn", width=64, height=48, **fields).images[0]
    return np.asarray(then("a lake at dawn", image=enlarge(small, size), **{**fields, **second}).images[0])


@pytest.mark.parametrize(
    ("sampler", "upscaler", "enlarge", "size"),
    [
        ("LCM", "tiny-esrgan", by_network, (96, 72)),
        ("Euler a", "tiny-esrgan", by_network, (96, 72)),
        ("DPM++ 2M", "tiny-esrgan", by_network, (160, 120)),
        ("DDIM", "lanczos", by_lanczos, (96, 72)),
    ],
)
def test_pictures_equal_plain_pipelines_and_a_plain_network(
    pair: Pair, sampler: str, upscaler: str, enlarge: Any, size: tuple[int, int]
) -> None:
    plain = expected(pair, sampler, size, enlarge, strength=0.6)
    hires = HiresOptions(size=f"{size[0]}x{size[1]}", strength=0.6, upscaler=upscaler)
    drawn = pair.draw(size="64x48", scheduler=sampler, guidance_scale=3.0, hires=hires)
    assert difference(drawn, plain) <= 1


def test_pictures_stay_exact_in_company(pair: Pair) -> None:
    assert_exact_in_company(pair)


def test_pictures_stay_exact_in_company_in_bf16(half_pair: Pair) -> None:
    assert half_pair.worker.numerics.precision == "bf16"
    assert_exact_in_company(half_pair)


def assert_exact_in_company(pair: Pair) -> None:
    """Draw requests of all kinds of second stages together, and compare each with the picture drawn alone."""
    enlarged = {"size": "64x48", "hires": HiresOptions(scale=1.5, upscaler="tiny-esrgan")}
    requests: list[dict[str, Any]] = [
        {**enlarged, "seed": 1},
        {**enlarged, "seed": 2, "guidance_scale": 3.0},
        {"size": "64x48", "hires": HiresOptions(scale=1.5, upscaler="lanczos"), "seed": 3},
        {"size": "64x48", "hires": HiresOptions(scale=1.5), "seed": 4},
        {"size": "96x72", "seed": 5, "num_inference_steps": 20},
        {"image": picture(), "hires": HiresOptions(scale=2, upscaler="tiny-esrgan"), "seed": 6},
    ]
    alone = [pair.picture(**fields).png for fields in requests]
    with LocalEngine(pair.worker, previews=True) as engine:
        tickets = [engine.submit(ask(**fields)) for fields in requests]
        leaving = [engine.submit(ask(**{**enlarged, "seed": seed})) for seed in range(7, 10)]
        first = tickets[0].result(120).png
        for ticket in leaving:
            ticket.cancel()
        together = [first, *(ticket.result(120).png for ticket in tickets[1:])]
    assert together == alone


def test_steps_count_both_stages_and_other_jobs_step_meanwhile(pair: Pair) -> None:
    steps: list[StepDone] = []
    hires = HiresOptions(scale=4, strength=0.5, upscaler="tiny-esrgan")
    enlarged = pair.worker.begin(Job(req=ask(size="64x48", hires=hires), on_step=steps.append))
    other = pair.worker.begin(Job(req=ask(size="64x48", num_inference_steps=40)))
    parts = 0
    while enlarged.steps_left:
        if enlarged.is_between_stages:
            parts += 1
            assert pair.worker.group(enlarged) != pair.worker.group(other)
            if other.steps_left:
                pair.worker.step([other])
        pair.worker.step([enlarged])
        assert enlarged.failure is None
    assert parts > 5
    assert [(done.step, done.steps) for done in steps] == [(step, 6) for step in range(1, 7)]


def test_a_job_that_leaves_between_its_stages_leaves_nothing(pair: Pair) -> None:
    hires = HiresOptions(scale=1.5, upscaler="tiny-esrgan")
    state = pair.worker.begin(Job(req=ask(size="64x48", num_inference_steps=1, hires=hires)))
    for _ in range(4):
        pair.worker.step([state])
    assert state.is_between_stages
    left = weakref.ref(state)
    gc.disable()
    try:
        del state
        assert left() is None
    finally:
        gc.enable()


def test_a_recipe_names_the_file_and_draws_the_picture_again(pair: Pair) -> None:
    hires = HiresOptions(scale=1.5, upscaler="tiny-esrgan")
    drawn = pair.picture(size="64x48", hires=hires)
    recipe = read_recipe(drawn.png)
    again, _ = pair.worker.run_job(Job(req=recipe.request()))
    assert again == drawn.png
    assert recipe.hires == {"scale": 1.5, "upscaler": "tiny-esrgan"}
    assert len(recipe.upscaler_hash or "") == 10
    latent = read_recipe(pair.picture(size="64x48", hires=HiresOptions(scale=1.5, upscaler="latent")).png)
    assert latent.hires == {"scale": 1.5}
    assert latent.upscaler_hash is None


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown name": (
        {"scale": 2, "upscaler": "R-ESRGAN"},
        "expected latent or .*lanczos or tiny-esrgan; IMAGEGEN_UPSCALER",
    ),
    "a path": ({"scale": 2, "upscaler": "/etc/passwd.pth"}, "IMAGEGEN_UPSCALER adds a file"),
    "a number": ({"scale": 2, "upscaler": 4}, "Invalid hires.upscaler 4: expected text"),
    "no size": ({"upscaler": "latent"}, "neither a scale nor a size"),
}


@pytest.mark.parametrize(("hires", "sentence"), WRONG.values(), ids=WRONG)
def test_wrong_upscalers_are_refused(pair: Pair, hires: dict[str, Any], sentence: str) -> None:
    request = GenerateRequest.model_construct(prompt="a lake", size="64x48", seed=1, hires=hires)
    with pytest.raises(InvalidRequestError, match=sentence) as caught:
        pair.worker.begin(Job(req=request))
    assert (caught.value.field or "").startswith("hires")


def test_too_many_pixels_on_the_way_are_refused_before_drawing(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagegen_core.diffusion.stage_upscaling.MAX_PIXELS", 96 * 96)
    with pytest.raises(InvalidRequestError, match="128x96 pixels on the way to 96x72"):
        pair.worker.begin(Job(req=ask(size="64x48", hires=HiresOptions(scale=1.5, upscaler="tiny-esrgan"))))


def test_the_memory_of_the_upscaler_and_the_encoder_is_estimated(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    needed: list[int] = []
    monkeypatch.setattr(beginnings, "check_fits", lambda most, *_: needed.append(most))
    monkeypatch.setattr(beginnings, "encoding_bytes", lambda *_: 10**15)
    pair.worker.begin(Job(req=ask(size="64x48", hires=HiresOptions(scale=1.5, upscaler="tiny-esrgan"))))
    needed.clear()
    for upscaler in ("latent", "lanczos"):
        pair.worker.begin(Job(req=ask(size="64x48", hires=HiresOptions(scale=1.5, upscaler=upscaler))))
    assert [most >= 10**15 for most in needed] == [False, False, False, True]
    loaded = pair.worker._upscaling.loaded("tiny-esrgan").upscaler
    assert loaded.tile_bytes(64, 48) >= 128 * 96 * 8 * 4  # the features of the enlarged picture
    assert loaded.tile_bytes(4000, 4000) == loaded.tile_bytes(320, 320)
    assert pair.worker._upscaling.memory_bytes == sum(tensor.nbytes for tensor in NETWORK.values())


def test_an_error_between_the_stages_is_the_jobs_own(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise OutOfMemoryError("no room")

    monkeypatch.setattr(pair.worker, "decode", fail)
    with pytest.raises(ImagegenError, match="no room"):
        pair.picture(size="64x48", hires=HiresOptions(scale=1.5, upscaler="lanczos"))


def test_the_command_line_takes_a_file(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_DTYPE", "fp32")
    monkeypatch.setenv("CUDA_DEVICE", "cpu")
    monkeypatch.setenv("MODEL", str(pair.folder))
    network = pair.folder.parent / "tiny-esrgan.safetensors"

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(build_app(), arguments)
        assert result.exit_code == 0, result.output
        return result.output

    options = ["--size", "64x48", "--seed", "7", "--hires", f"1.5,strength=0.6,upscaler={network}", "-o", "out.png"]
    run("generate", "a lake at dawn", *options)
    hires = HiresOptions(scale=1.5, strength=0.6, upscaler="tiny-esrgan")
    assert Path("out.png").read_bytes() == pair.picture(size="64x48", hires=hires).png
    monkeypatch.setenv("IMAGEGEN_UPSCALER", str(network))
    assert "the same bytes" in run("replay", "out.png")
    save_file(networks.esrgan(blocks=2, growth=32), tmp_path / "tiny-esrgan.safetensors")
    monkeypatch.setenv("IMAGEGEN_UPSCALER", str(tmp_path / "tiny-esrgan.safetensors"))
    result = CliRunner().invoke(build_app(), ["replay", "out.png"])
    assert result.exit_code != 0
    assert "upscaler hash was" in str(result.exception)


def test_the_command_line_takes_micro_conditioning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "original_size=2048x1024,crop=64:32,negative-crop=0:8,negative_target_size=96x96"
    assert parse_options(MicroConditioning, "micro-conditioning", text) == MicroConditioning(
        original_size="2048x1024", crop=(64, 32), negative_crop=(0, 8), negative_target_size="96x96"
    )
    arguments = ["generate", "a lake", "--model", "demo", "--micro-conditioning"]
    for wrong in ("crop=64", "crop=a:b", "size=8x8"):
        result = CliRunner().invoke(build_app(), [*arguments, wrong])
        assert result.exit_code != 0
        assert "Invalid --micro-conditioning" in str(result.exception)
    monkeypatch.chdir(tmp_path)
    options = ["original_size=512x256,crop=64:32", "--size", "64x64", "--steps", "1", "-o", "out.png"]
    assert CliRunner().invoke(build_app(), [*arguments, *options]).exit_code == 0
    assert read_recipe(Path("out.png")).micro_conditioning == {"original_size": "512x256", "crop": [64, 32]}


def test_the_numerics_plan_has_the_upscalers_file(pair: Pair, tmp_path: Path) -> None:
    """Replicas compare their plans, so that two files of one name do not draw in one cluster."""
    network = Path(pair.worker.settings.upscaler)
    other = tmp_path / network.name
    other.write_bytes(network.read_bytes() + b" ")
    plans = []
    for path in (network, other):
        settings = Settings(model=str(pair.folder), device="cpu", dtype="fp32", upscaler=str(path))
        plans.append(
            replace(pair.worker.numerics, upscalers=StageUpscaling(settings, Registry.discover()).identities())
        )
    assert plans[0] == pair.worker.numerics
    (difference,) = plans[0].differences(plans[1])
    assert re.fullmatch(r"upscaler tiny-esrgan was [0-9a-f]{10}, and is [0-9a-f]{10}", difference)
    assert "upscalers" not in plans[0].of_picture(Size(64, 48))


def test_a_missing_upscaler_does_not_hinder_others(pair: Pair) -> None:
    settings = Settings(model=str(pair.folder), device="cpu", dtype="fp32", upscaler="nix")
    assert StageUpscaling(settings, Registry.discover()).identities() == {}
