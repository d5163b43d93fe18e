"""The OpenVINO plugin, a backend without diffusers: it draws the torch backend's pictures without torch."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import LCMScheduler

import imagegen_demo
from imagegen_core import (
    GenerateRequest,
    InvalidRequestError,
    Job,
    LocalEngine,
    ModelLoadError,
    ModelNotFoundError,
    OutputError,
    Picture,
    Registry,
    Settings,
    SettingsError,
    Size,
    generate,
    read_recipe,
)
from imagegen_core.cli import main
from imagegen_core.hosting.model_card import ModelCard
from imagegen_core.models.inspect import Recognized, recognize
from imagegen_core.resolution.backends import select_backend
from imagegen_sd15 import DiffusersCudaWorker
from imagegen_sdxl import DiffusersSDXLCudaWorker
from tests.checkpoints import save_sd15, save_sdxl

try:
    version("imagegen-openvino")
except PackageNotFoundError:
    if os.environ.get("CI"):
        raise
    pytest.skip("needs the example: pip install ./examples/imagegen-openvino", allow_module_level=True)
decoding, denoising, exporting, lcm, noise, worker_module = (
    import_module(f"imagegen_openvino.{name}")
    for name in ("decoding", "denoising", "exporting", "lcm", "noise", "worker")
)

DEMO = Path(imagegen_demo.__file__).parent / "checkpoint"
ROUNDING = 1  # levels of 255, because its kernels sum in another order


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model, exported on the command line."""
    folder = tmp_path_factory.mktemp("openvino") / "demo"
    assert _imagegen("openvino", "export", "demo", str(folder)) == 0
    return folder


@pytest.fixture(scope="module")
def worker(demo: Path) -> Any:
    return worker_module.OpenVinoWorker(settings=Settings(model=str(demo), dtype="fp32"))


@pytest.fixture(scope="module")
def torch_worker() -> Any:
    return DiffusersSDXLCudaWorker(settings=Settings(model=str(DEMO), device="cpu", dtype="fp32"))


FAMILIES: dict[str, tuple[Any, Any]] = {
    "sdxl": (save_sdxl, DiffusersSDXLCudaWorker),
    "sd15": (save_sd15, DiffusersCudaWorker),
}


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Both backends' workers on one tiny random checkpoint."""
    save, torch_class = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    checkpoint = save(folder / "checkpoint")
    exporting.export_checkpoint(checkpoint, folder / "exported")
    return (
        worker_module.OpenVinoWorker(settings=Settings(model=str(folder / "exported"), dtype="fp32")),
        torch_class(settings=Settings(model=str(checkpoint), device="cpu", dtype="fp32")),
    )


REQUESTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "one step": {"num_inference_steps": 1},
    "guidance": {"guidance_scale": 4.0},
    "a negative prompt": {"guidance_scale": 4.0, "negative_prompt": "blurry, ugly"},
    "an empty negative prompt": {"guidance_scale": 4.0, "negative_prompt": ""},
    "an odd size": {"size": "88x40", "num_inference_steps": 3},
    "the smallest size": {"size": "8x8"},
    "a long prompt beside none": {"prompt": "x" * 100, "guidance_scale": 2.0},
    "a seed of many bits": {"seed": 2**62 + 5},
}


def _drawn(worker: Any, **fields: Any) -> Picture:
    fields = {"prompt": "a lake at dawn", "seed": 11, **fields}
    return Picture(*worker.run_job_with_latents(Job(req=GenerateRequest(**fields))))


def _difference(first: Picture, second: Picture) -> Any:
    assert first.size == second.size
    return np.abs(np.asarray(first.image, int) - np.asarray(second.image, int))


@pytest.mark.parametrize("fields", REQUESTS.values(), ids=REQUESTS)
def test_pictures_match_the_torch_backends(pair: tuple[Any, Any], fields: dict[str, Any]) -> None:
    ours, theirs = (_drawn(worker, **fields) for worker in pair)
    assert _difference(ours, theirs).max() <= ROUNDING
    assert ours.seed == theirs.seed
    pooled = [np.frombuffer(picture.latents, "<f2").astype(float) for picture in (ours, theirs)]
    np.testing.assert_allclose(*pooled, rtol=2e-3, atol=2e-3)  # float16


def test_a_trained_models_pictures_match_the_torch_backends(worker: Any, torch_worker: Any) -> None:
    for fields in ({}, {"size": "264x200", "guidance_scale": 3.0}):
        prompt = "a majestic mountain landscape at sunset"
        assert (
            _difference(_drawn(worker, prompt=prompt, **fields), _drawn(torch_worker, prompt=prompt, **fields)).max()
            <= ROUNDING
        )


def test_bf16_distinguishes_timesteps(demo: Path, worker: Any) -> None:
    low = worker_module.OpenVinoWorker(settings=Settings(model=str(demo), dtype="bf16"))
    assert (low.dtype, worker.dtype) == ("bf16", "fp32")
    state = worker.begin(Job(req=GenerateRequest(prompt="a lake", seed=1)))
    predictions = [denoising.predict(candidate._unet, [state])[0] for candidate in (low, worker)]
    assert np.abs(predictions[0] - predictions[1]).mean() < 0.01


@pytest.mark.parametrize("seed", [0, 7, 2**32 + 7, 2**63 - 1])
@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (1, 4, 1, 3), (1, 4, 4, 1), (1, 4, 5, 3), (1, 4, 32, 24)])
def test_noise_equals_torchs(seed: int, shape: tuple[int, ...]) -> None:
    generator, ours = torch.Generator("cpu").manual_seed(seed), noise.Noise(seed)
    for _ in range(3):
        expected = torch.randn(shape, generator=generator)
        np.testing.assert_allclose(ours.normal(*shape), expected.numpy(), atol=1e-6)


SCHEDULERS: dict[str, dict[str, Any]] = {
    "noise": {},
    "velocity": {"prediction_type": "v_prediction", "beta_schedule": "linear"},
    "samples": {"prediction_type": "sample", "original_inference_steps": 20},
    "clipped": {"clip_sample": True, "clip_sample_range": 0.5},
}


@pytest.mark.parametrize("steps", [1, 3, 20])
@pytest.mark.parametrize("config", SCHEDULERS.values(), ids=SCHEDULERS)
def test_the_scheduler_matches_diffusers(config: dict[str, Any], steps: int) -> None:
    theirs = LCMScheduler(**config)
    theirs.set_timesteps(steps)
    ours = lcm.Lcm(theirs.config)
    timesteps = ours.timesteps(steps)
    assert timesteps.tolist() == theirs.timesteps.tolist()
    generator, source = torch.Generator("cpu").manual_seed(5), noise.Noise(5)
    expected = torch.randn(1, 4, 6, 6, generator=generator)
    actual = source.normal(1, 4, 6, 6)
    for timestep, following in zip(timesteps, [*timesteps[1:], None], strict=True):
        prediction = torch.tanh(expected) * 0.7
        actual = ours.step(prediction.numpy(), actual, int(timestep), following, source)
        expected = theirs.step(prediction, timestep, expected, generator=generator, return_dict=False)[0]
        np.testing.assert_allclose(actual, expected.numpy(), rtol=1e-4, atol=1e-4)


def test_more_steps_than_were_distilled_are_refused(worker: Any) -> None:
    with pytest.raises(InvalidRequestError, match="1 to 50") as caught:
        _drawn(worker, num_inference_steps=51)
    assert caught.value.field == "num_inference_steps"


@pytest.mark.parametrize("sides", [(1, 1), (8, 8), (11, 5), (33, 64)])
def test_latents_are_pooled_as_in_torch(sides: tuple[int, int]) -> None:
    latents = torch.randn(1, 4, *sides, generator=torch.Generator().manual_seed(1))
    expected = torch.nn.functional.adaptive_avg_pool2d(latents, 8)
    pooled = np.frombuffer(decoding.pool(latents.numpy()), "<f2").reshape(1, 4, 8, 8)
    np.testing.assert_allclose(pooled.astype(np.float32), expected.numpy(), atol=1e-3)


def test_drawing_needs_no_torch(demo: Path) -> None:
    code = (
        "import sys; from imagegen_core import generate; "
        f"picture = generate('a lake', backend='openvino', model={str(demo)!r}, size='64x64'); "
        "print(picture.size, [name for name in ('torch', 'diffusers', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(64, 64) []"


def _imagegen(*words: str) -> int:
    with pytest.raises(SystemExit) as exit_info:
        main(words)
    return int(exit_info.value.code or 0)


def test_the_command_line_exports_and_selects_a_model(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGEGEN_DTYPE", "fp32")
    shutil.copytree(demo, "exported")
    assert _imagegen("generate", "a lake at dawn", "--model", "exported", "--seed", "11") == 0
    recipe = read_recipe(tmp_path / "out.png")
    assert (recipe.backend, recipe.scheduler, recipe.dtype, recipe.device) == ("openvino", "LCM", "fp32", "cpu")
    assert recipe.checkpoint == "exported"
    assert len(recipe.checkpoint_hash or "") == 10
    assert recipe.versions.keys() == {"imagegen-core", "imagegen-openvino", "openvino"}

    monkeypatch.setenv("OPENVINO_MODEL", "exported")
    assert generate("a lake at dawn", seed=11).png == (tmp_path / "out.png").read_bytes()
    assert _imagegen("openvino", "export", "demo", "exported") == 2


def test_an_exported_folder_is_recognized(
    demo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recognize(demo) == Recognized("openvino", "sdxl")
    settings, registry = Settings(model=str(demo)), Registry.discover()
    assert select_backend(registry, settings).name == "openvino"
    card = ModelCard.of_files(settings, registry)
    assert (card.path, card.size, card.styles, card.sampler) == (demo, "256x256", {}, None)
    monkeypatch.setenv("MODEL_ROOT", str(demo.parent))
    assert _imagegen("models", "list", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert (rows["demo"]["kind"], rows["demo"]["family"], rows["demo"]["size"]) == ("checkpoint", "sdxl", "256x256")
    assert _imagegen("models", "inspect", str(demo), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["format"], told["loaded_by"], told["missing"]) == ("openvino", ["openvino"], [])
    with pytest.raises(ModelLoadError, match="in the format openvino, which backend 'sdxl' does not load; .*openvino"):
        DiffusersSDXLCudaWorker(settings=Settings(model=str(demo), device="cpu"))


def test_the_plugin_works_beside_the_other_backends() -> None:
    registry = Registry.discover()
    assert {"openvino", "sdxl", "sd15"} <= set(registry.backends)
    assert generate("a lake", size="64x64").size == (64, 64)  # the demo's checkpoint still selects its own backend


def test_batches_change_no_picture(worker: Any) -> None:
    requests = [GenerateRequest(prompt="a lake", seed=seed, guidance_scale=1.0 + 2 * (seed % 2)) for seed in range(5)]
    alone = [worker.run_job(Job(req=request))[0] for request in requests]
    with LocalEngine(worker) as engine:
        tickets = [engine.submit(request) for request in requests]
        assert [ticket.result(timeout=120).png for ticket in tickets] == alone


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_first_pictures_size_does_not_matter(demo: Path, dtype: str) -> None:
    settings = Settings(model=str(demo), dtype=dtype)
    first, second = (worker_module.OpenVinoWorker(settings=settings) for _ in range(2))
    sizes = ("8x8", "64x64", "256x256", "64x256")
    drawn = [_drawn(first, size=size).png for size in sizes]
    assert [_drawn(second, size=size).png for size in reversed(sizes)] == drawn[::-1]


def test_a_trial_detects_a_difference(worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    unet = worker._unet

    def leaky(**inputs: Any) -> Any:
        return [unet(**inputs)[0] + len(inputs["latents"])]

    def trial() -> bool:
        states = [worker.begin(Job(req=GenerateRequest(prompt="a", seed=seed, size="64x64"))) for seed in (1, 2)]
        return worker.trial(states)  # type: ignore[no-any-return]

    assert trial()
    monkeypatch.setattr(worker, "_unet", leaky)
    assert not trial()
    monkeypatch.setattr(worker, "numerics", replace(worker.numerics, rows=4))
    assert trial()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"scheduler": "Euler a"}, "scheduler"),
        ({"clip_skip": 1}, "clip_skip"),
        ({"style_lora": {"style": "storybook", "level": 1}}, "style_lora.style"),
    ],
)
def test_unsupported_request_fields_are_refused(worker: Any, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        _drawn(worker, **fields)
    assert caught.value.field == field


def test_lcm_may_be_requested_by_name(worker: Any) -> None:
    assert _drawn(worker, size="64x64", scheduler="LCM").png == _drawn(worker, size="64x64").png


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"device": "cuda:0"}, "device=cuda:0, but OpenVINO finds no such device here, only cpu"),
        ({"scheduler": "Euler"}, "scheduler=Euler, but"),
        ({"compile": True}, "compile asks for what"),
        ({"vae_path": "vae"}, "vae_path asks for what"),
    ],
)
def test_unsupported_settings_are_refused(demo: Path, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        worker_module.OpenVinoWorker(settings=Settings(model=str(demo), **settings))


def test_unexported_and_damaged_models_are_refused(demo: Path, tmp_path: Path) -> None:
    def load(model: str | None) -> None:
        worker_module.OpenVinoWorker(settings=Settings(model=model))

    with pytest.raises(ModelNotFoundError, match="set OPENVINO_MODEL"):
        load(None)
    with pytest.raises(ModelNotFoundError, match="No checkpoint 'nowhere'"):
        load("nowhere")
    with pytest.raises(ModelLoadError, match=f"imagegen openvino export {DEMO}"):
        load("demo")
    damaged = shutil.copytree(demo, tmp_path / "damaged")
    (damaged / "unet.xml").write_text("<net>")
    with pytest.raises(ModelLoadError, match=r"cannot load .*unet.xml .* export the checkpoint again"):
        load(str(damaged))
    (damaged / "text_encoder.tokenizer.json").unlink()
    shutil.copy(demo / "unet.xml", damaged)
    with pytest.raises(ModelLoadError, match=r"text_encoder.tokenizer.json"):
        load(str(damaged))
    manifest = damaged / "imagegen-openvino.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "format": 2}))
    with pytest.raises(ModelLoadError, match="of another version"):
        load(str(damaged))
    manifest.write_text(json.dumps({**content, "marks": 7}))
    with pytest.raises(ModelLoadError, match="is damaged"):
        load(str(damaged))


def test_invalid_exports_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="no diffusers-format folder"):
        exporting.export_checkpoint(DEMO / "unet", tmp_path / "out")
    with pytest.raises(ModelLoadError, match="not distilled with guidance"):
        exporting.export_checkpoint(save_sdxl(tmp_path / "guided", time_cond_proj_dim=16), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(OutputError, match="is there already"):
        exporting.export_checkpoint(DEMO, tmp_path / "taken")


def test_the_native_size_is_the_checkpoints(worker: Any) -> None:
    assert Size.parse(worker.native_size) == Size(256, 256)


def test_the_plugin_imports_only_public_names() -> None:
    for path in Path(worker_module.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("imagegen_core"):
                assert node.module == "imagegen_core", f"{path} imports {node.module}"
