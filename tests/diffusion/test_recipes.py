"""A picture contains its recipe, and the recipe draws the picture again."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
from PIL import Image

from imagegen_core import Settings, generate
from imagegen_core.cli import main
from imagegen_core.images.png import encode_png
from imagegen_core.images.recipe import Upscaling, UsedLora, read_recipe, to_text
from imagegen_sdxl import DiffusersSDXLCudaWorker
from tests.loras import as_kohya, random_lora, save


@pytest.fixture(autouse=True)
def _tiny(sdxl_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL", str(sdxl_checkpoint))
    monkeypatch.setenv("CUDA_DEVICE", "cpu")


def _run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return int(caught.value.code or 0), *capfd.readouterr()


def _rewritten(path: Path, **changes: Any) -> Path:
    """Change the recipe in a picture."""
    recipe = replace(read_recipe(path), **changes)
    with Image.open(path) as image:
        path.write_bytes(encode_png(np.asarray(image), to_text(recipe)))
    return path


def test_a_picture_contains_its_complete_recipe(sdxl_checkpoint: Path) -> None:
    fields: dict[str, Any] = {"guidance_scale": 4.0, "negative_prompt": "dark", "scheduler": "euler a", "clip_skip": 1}
    recipe = read_recipe(generate("a lake", seed=7, size="64x40", num_inference_steps=3, **fields).png)
    weights = (sdxl_checkpoint / "unet/diffusion_pytorch_model.safetensors").read_bytes()
    assert (recipe.prompt, recipe.negative_prompt, recipe.seed) == ("a lake", "dark", 7)
    assert (recipe.width, recipe.height, recipe.steps, recipe.guidance_scale) == (64, 40, 3, 4.0)
    assert (recipe.scheduler, recipe.clip_skip, recipe.style, recipe.style_level) == ("Euler a", 2, None, 0)
    assert (recipe.checkpoint, recipe.checkpoint_hash) == ("tiny-sdxl", hashlib.sha256(weights).hexdigest()[:10])
    assert (recipe.backend, recipe.device) == ("sdxl", "cpu")
    assert set(recipe.versions) == {"imagegen-core", "torch", "diffusers", "transformers", "pillow"}


def test_the_command_line_draws_with_a_mode_and_replays_the_picture(
    sdxl_checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(sdxl_checkpoint, local_files_only=True)
    save(as_kohya(random_lora(pipe)), tmp_path / "ink.safetensors")
    lora = f'loras = [{{ path = "{tmp_path}/ink.safetensors", strength = 0.8 }}]'
    Path("imagegen.toml").write_text(f'[modes.inked]\n{lora}\ndefault_size = "64x40"\ndefault_steps = 2\n')
    assert _run(capfd, "generate", "a lake", "-o", "a.png", "--seed", "7", "--mode", "inked")[0] == 0
    recipe = read_recipe(Path("a.png"))
    assert (recipe.width, recipe.height, recipe.steps) == (64, 40, 2)
    assert recipe.loras == (UsedLora("ink", 0.8),)
    code, _, err = _run(capfd, "replay", "a.png")
    assert (code, "the same bytes" in err) == (0, True)
    Path("imagegen.toml").unlink()
    code, _, error = _run(capfd, "replay", "a.png")
    assert code != 0
    assert "loras was" in error
    code, _, error = _run(capfd, "generate", "a lake", "--mode", "inked")
    assert (code, "Unknown mode 'inked': expected default" in error) == (2, True)


def test_a_setting_disables_the_recipe(sdxl_checkpoint: Path) -> None:
    worker = DiffusersSDXLCudaWorker(settings=Settings(model=str(sdxl_checkpoint), device="cpu", recipe=False))
    assert generate("a lake", worker=worker).image.info == {}


def test_the_recipe_does_not_change_the_pixels(sdxl_checkpoint: Path) -> None:
    worker = DiffusersSDXLCudaWorker(settings=Settings(model=str(sdxl_checkpoint), device="cpu", recipe=False))
    assert generate("a lake", seed=1).image.tobytes() == generate("a lake", worker=worker, seed=1).image.tobytes()


def test_replay_draws_the_same_bytes(capfd: pytest.CaptureFixture[str]) -> None:
    options = [
        "--guidance",
        "3",
        "--guidance-rescale",
        "0.7",
        "--scheduler",
        "euler",
        "--schedule",
        "beta",
        "--s-churn",
        "2",
        "--s-noise",
        "1.01",
        "--prediction",
        "v",
        "--clip-skip",
        "1",
        "--negative",
        "dark",
        "--size",
        "64x48",
    ]
    assert _run(capfd, "generate", "a lake", "-o", "out.png", *options)[0] == 0
    code, out, err = _run(capfd, "replay", "out.png", "-o", "again.png")
    assert (code, out, err) == (0, "", "again.png  the same bytes\n")
    assert Path("again.png").read_bytes() == Path("out.png").read_bytes()


def test_a_backend_without_samplers_and_checkpoints_replays(capfd: pytest.CaptureFixture[str]) -> None:
    assert _run(capfd, "generate", "a lake", "--backend", "toy", "--size", "64x48", "-o", "out.png")[0] == 0
    recipe = read_recipe(Path("out.png"))
    assert (recipe.backend, recipe.scheduler, recipe.checkpoint, recipe.dtype) == ("toy", None, None, None)
    code, _, err = _run(capfd, "replay", "out.png")
    assert (code, err) == (0, "replayed.png  the same bytes\n")


def test_replay_finds_the_recipes_checkpoint_without_configuration(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, sdxl_checkpoint: Path
) -> None:
    assert _run(capfd, "generate", "a lake", "-o", "out.png")[0] == 0
    monkeypatch.delenv("MODEL")
    monkeypatch.setenv("MODEL_ROOT", str(sdxl_checkpoint.parent))
    code, _, err = _run(capfd, "replay", "out.png")
    assert (code, err) == (0, "replayed.png  the same bytes\n")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"checkpoint_hash": "0123456789"}, "checkpoint hash was 0123456789, and is "),
        ({"device": "cuda:0"}, "device was cuda:0, and is cpu"),
        ({"versions": {"torch": "1.0"}}, "torch was 1.0, and is 2."),
        ({"numerics": {"threads": 99}}, "threads was 99, and is "),
        ({"numerics": {"processor": "another"}}, "processor was another, and is "),
        ({"numerics": {"flags": {"onednn": False}}}, "onednn was False, and is True"),
        ({"upscalings": (Upscaling("lanczos", 2),)}, "it was enlarged afterwards"),
        ({"seed": 8}, "the pixels come out otherwise"),
    ],
)
def test_replay_reports_differences_and_draws_anyway_with_force(
    capfd: pytest.CaptureFixture[str], change: dict[str, Any], words: str
) -> None:
    assert _run(capfd, "generate", "a lake", "-o", "out.png", "--seed", "7")[0] == 0
    _rewritten(Path("out.png"), **change)
    code, out, err = _run(capfd, "replay", "out.png")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err
    assert not Path("replayed.png").exists()
    code, _, err = _run(capfd, "replay", "out.png", "--force")
    assert code == 0
    assert words in err
    assert Path("replayed.png").exists()


@pytest.mark.parametrize(
    ("variables", "stated"),
    [
        ({"IMAGEGEN_ROWS_PER_PASS": "4"}, {"rows": 4}),
        ({"IMAGEGEN_VAE_TILING": "1"}, {"tile": 512}),
        ({"CUDA_ATTENTION_SLICING": "1", "CUDA_DTYPE": "fp32"}, {"attention": "sliced"}),
        ({"IMAGEGEN_BATCHING": "fast"}, {"batching": "fast"}),
    ],
    ids=str,
)
def test_replay_uses_the_pictures_numerics_plan_not_the_configured_plan(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    stated: dict[str, Any],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert _run(capfd, "generate", "a lake", "-o", "out.png", "--size", "520x64", "--guidance", "3")[0] == 0
    numerics = read_recipe(Path("out.png")).numerics
    assert {**numerics, **stated} == numerics
    for name in variables:
        monkeypatch.delenv(name)
    code, _, err = _run(capfd, "replay", "out.png")
    assert (code, err) == (0, "replayed.png  the same bytes\n")


def test_replay_says_that_a_picture_was_not_exact(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGEGEN_BATCHING", "fast")
    assert _run(capfd, "generate", "a lake", "-o", "out.png")[0] == 0
    _rewritten(Path("out.png"), seed=8)
    code, _, err = _run(capfd, "replay", "out.png")
    assert code == 2
    assert "otherwise, since its numerics plan was not exact" in err


@pytest.mark.parametrize("numerics", [{"rows": "many"}, {"rows": 10**9}, {"batching": "odd"}], ids=str)
def test_replay_refuses_an_impossible_numerics_plan(
    capfd: pytest.CaptureFixture[str], numerics: dict[str, Any]
) -> None:
    assert _run(capfd, "generate", "a lake", "-o", "out.png")[0] == 0
    _rewritten(Path("out.png"), numerics=numerics)
    code, out, err = _run(capfd, "replay", "out.png")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "Traceback" not in err


def test_replay_refuses_a_picture_without_a_recipe(capfd: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8)).save("plain.png")
    code, _, err = _run(capfd, "replay", "plain.png")
    assert (code, err) == (2, "Error: There is no recipe in plain.png: give a PNG that imagegen drew\n")
