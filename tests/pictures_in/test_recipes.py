"""Recipes with input pictures, and replaying them, from Python and on the command line."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from imagegen_core import (
    InpaintOptions,
    Job,
    MicroConditioning,
    OutpaintOptions,
    Picture,
    PictureError,
    Variation,
    read_recipe,
)
from imagegen_core.cli.app import build_app
from imagegen_core.picture_files.decode import read_text
from imagegen_core.replay import settings_of, with_pictures
from tests.pictures_in.conftest import Pair, ask, mask, picture

CASES: dict[str, dict[str, Any]] = {
    "an image": {"image": picture(), "strength": 0.6},
    "a mask": {"image": picture(), "mask": mask(), "inpaint": InpaintOptions(blur=3, only_masked=True, padding=4)},
    "sides": {"image": picture(), "outpaint": OutpaintOptions(left=8), "strength": 0.9},
    "a resize": {"image": picture(80, 80), "size": "64x48", "resize": "latent"},
    "a variation": {"size": "64x48", "variation": Variation(seed=3, strength=0.3, resize_from="32x32")},
}


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("fields", CASES.values(), ids=CASES)
def test_a_recipe_draws_the_same_bytes_with_the_same_pictures(pair: Pair, fields: dict[str, Any]) -> None:
    drawn = pair.picture(**fields)
    recipe = read_recipe(drawn.png)
    given = {name: png(fields[name]) for name in ("image", "mask") if name in fields}
    request = with_pictures(recipe.request(), recipe, **given)
    again, _ = pair.worker.run_job(Job(req=request))
    assert again == drawn.png


@pytest.mark.parametrize("pair", ["sdxl"], indirect=True)
def test_micro_conditioning_is_in_the_recipe(pair: Pair) -> None:
    drawn = pair.picture(size="64x48", micro_conditioning=MicroConditioning(crop=(8, 9), target_size="96x96"))
    again, _ = pair.worker.run_job(Job(req=read_recipe(drawn.png).request()))
    assert again == drawn.png


def embedding(pair: Pair, most: int) -> Any:
    """Return a worker that embeds input pictures."""
    return type(pair.worker)(settings=pair.worker.settings.override(embed_inputs=most))


def test_small_pictures_are_embedded_and_replay_alone(pair: Pair) -> None:
    fields = CASES["a mask"]
    sizes = {name: len(png(fields[name])) for name in ("image", "mask")}
    worker = embedding(pair, max(sizes.values()))
    drawn, _ = worker.run_job(Job(req=ask(**fields)))
    assert Picture(drawn, 0, b"").image.tobytes() == pair.picture(**fields).image.tobytes()
    recipe = read_recipe(drawn)
    assert recipe.pictures is not None
    assert set(recipe.pictures) == {"image", "mask"}
    settings = settings_of(recipe, pair.worker.settings)
    again, _ = type(worker)(settings=settings).run_job(Job(req=with_pictures(recipe.request(), recipe)))
    assert again == drawn


def test_a_larger_picture_is_not_embedded(pair: Pair) -> None:
    drawn, _ = embedding(pair, len(png(picture())) - 1).run_job(Job(req=ask(**CASES["an image"])))
    recipe = read_recipe(drawn)
    assert recipe.pictures is None
    with pytest.raises(PictureError, match="give this picture as image"):
        with_pictures(recipe.request(), recipe)


def test_an_embedded_picture_carries_no_metadata_of_its_file(pair: Pair) -> None:
    buffer, tags = io.BytesIO(), Image.Exif()
    tags[270] = "taken at home"
    picture().save(buffer, "PNG", exif=tags)
    assert b"taken at home" in buffer.getvalue()
    drawn, _ = embedding(pair, 2**20).run_job(Job(req=ask(image=buffer.getvalue())))
    kept = read_recipe(drawn).pictures
    assert kept is not None
    assert b"taken at home" not in base64.b64decode(kept["image"])


def test_a_plain_recipe_has_no_fields_of_pictures(pair: Pair) -> None:
    text = read_text(pair.picture(size="64x48").png)["imagegen"]
    assert not any(f'"{name}"' in text for name in ("image", "mask", "strength", "variation", "inpaint", "pictures"))


def test_the_hash_finds_another_a_missing_and_a_superfluous_picture(pair: Pair) -> None:
    recipe = read_recipe(pair.picture(image=picture(), strength=0.6).png)
    for given, sentence in [
        ({"image": picture(seed=4)}, "is another picture"),
        ({}, "was drawn from image"),
        ({"image": picture(), "mask": mask()}, "without mask"),
    ]:
        with pytest.raises(PictureError, match=sentence):
            with_pictures(recipe.request(), recipe, **given)
    assert ask(image=picture()).image is not None


@pytest.mark.parametrize("pair", ["sdxl"], indirect=True)
def test_the_command_line_draws_from_a_picture(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_DTYPE", "fp32")
    monkeypatch.setenv("CUDA_DEVICE", "cpu")
    monkeypatch.setenv("MODEL", str(pair.folder))
    picture().save("in.png")
    mask().save("mask.png")

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(build_app(), arguments)
        assert result.exit_code == 0, result.output
        return result.output

    run("generate", "a lake at dawn", "--seed", "7", "--image", "in.png", "--strength", "0.6", "-o", "out.png")
    assert Path("out.png").read_bytes() == pair.picture(image=picture(), strength=0.6).png
    assert "the same bytes" in run("replay", "out.png", "--image", "in.png")
    run("generate", "a lake", "--image", "in.png", "--mask", "mask.png", "--inpaint", "blur=2", "-o", "masked.png")
    run("generate", "a lake", "--image", "in.png", "--outpaint", "left=16", "-o", "larger.png")
    assert Picture(Path("larger.png").read_bytes(), 0, b"").size == (80, 48)
    options = ("--variation", "8:0.2", "--resize-from", "64x64", "--size", "64x48", "-o", "other.png")
    run("generate", "a lake", *options)
    assert read_recipe(Path("other.png")).variation == {"seed": 8, "strength": 0.2, "resize_from": "64x64"}


@pytest.mark.parametrize(
    ("option", "text", "sentence"),
    [
        ("--outpaint", "up=3", "Invalid --outpaint 'up=3'"),
        ("--inpaint", "blur=much", "Invalid --inpaint 'blur=much'"),
        ("--variation", "seven", "SEED:STRENGTH"),
    ],
)
def test_wrong_options_are_refused_in_a_sentence(option: str, text: str, sentence: str) -> None:
    result = CliRunner().invoke(build_app(), ["generate", "a lake", "--model", "demo", option, text])
    assert result.exit_code != 0
    assert sentence in result.output or sentence in str(result.exception)
