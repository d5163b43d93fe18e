"""A refiner's last steps equal plain diffusers' two calls, with `denoising_end` and `denoising_start`."""

from __future__ import annotations

import copy
import io
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from imagegen_core import (
    GenerateRequest,
    HiresOptions,
    InpaintOptions,
    InvalidRequestError,
    Job,
    MicroConditioning,
    Picture,
    Settings,
    StepDone,
    generate,
    read_recipe,
)
from imagegen_core.cli.app import build_app
from imagegen_sd15 import DiffusersCudaWorker
from imagegen_sdxl import DiffusersSDXLCudaWorker, SDXLRefinerWorker
from tests.checkpoints import save_sd15, save_sdxl, save_sdxl_refiner
from tests.pictures_in.conftest import Pair, ask, difference, mask, picture, pixels

SAMPLERS = ["LCM", "Euler", "Euler a", "DPM++ 2M", "DPM++ 2M SDE", "Heun", "DDIM", "UniPC", "DPM++ 2M Karras"]
REFINED = {"refiner": "tiny-refiner"}


def load(kind: type, checkpoint: Path, dtype: str = "fp32", **settings: Any) -> Any:
    return kind(settings=Settings(model=str(checkpoint), device="cpu", dtype=dtype, **settings))


class Couple:
    """A base and a refiner, as workers and as plain pipelines."""

    def __init__(self, folder: Path) -> None:
        self.base_path, self.refiner_path = save_sdxl(folder / "tiny-sdxl"), save_sdxl_refiner(folder / "tiny-refiner")
        self.base = load(DiffusersSDXLCudaWorker, self.base_path)
        self.refiner = load(SDXLRefinerWorker, self.refiner_path)

    @cache  # noqa: B019 - it lives as long as the module
    def plain(self, kind: str, *, refines: bool = False) -> Any:
        pipeline = getattr(diffusers, f"StableDiffusionXL{kind}Pipeline")
        path = self.refiner_path if refines else self.base_path
        pipe = pipeline.from_pretrained(path, local_files_only=True, add_watermarker=False)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def expected(self, sampler: str, switch_at: float, kind: str = "", **fields: Any) -> np.ndarray[Any, Any]:
        """Draw with two plain pipelines that share a generator."""
        first, then = self.plain(kind), self.plain("Img2Img", refines=True)
        for pipe, worker in ((first, self.base), (then, self.refiner)):
            schedulers = worker._schedulers
            pipe.scheduler = copy.deepcopy(schedulers._prototype(*schedulers._find(sampler, None)).scheduler)
        shared = {"prompt": "a lake at dawn", "generator": torch.Generator().manual_seed(7)}
        shared |= {name: fields.pop(name) for name in ("num_inference_steps", "guidance_scale", "negative_prompt")}
        latents = first(**shared, **fields, denoising_end=switch_at, output_type="latent").images
        return pixels(then(**shared, image=latents, denoising_start=switch_at).images[0])

    def picture(self, **fields: Any) -> Picture:
        """Draw with both workers."""
        return self.drawn(ask(**REFINED, **fields))

    def drawn(self, request: GenerateRequest, refiner: Any = None, on_step: Any = None) -> Picture:
        half_drawn = self.base.run_first_part(Job(req=request, on_step=on_step))
        job = Job(req=request, half_drawn=half_drawn, on_step=on_step)
        return Picture(*(refiner or self.refiner).run_job_with_latents(job))

    def draw(self, **fields: Any) -> np.ndarray[Any, Any]:
        return pixels(self.picture(**fields).image)


@pytest.fixture(scope="module")
def couple(tmp_path_factory: pytest.TempPathFactory) -> Couple:
    return Couple(tmp_path_factory.mktemp("couple"))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("switch_at", [0.3, 0.8])
@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_pictures_equal_two_plain_pipelines(couple: Couple, sampler: str, switch_at: float, guidance: float) -> None:
    shared = {
        "num_inference_steps": 8,
        "guidance_scale": guidance,
        "negative_prompt": "rain" if guidance > 1 else None,
    }
    drawn = couple.draw(size="64x48", scheduler=sampler, switch_at=switch_at, **shared)
    assert difference(drawn, couple.expected(sampler, switch_at, width=64, height=48, **shared)) <= 1


@pytest.mark.parametrize("sampler", ["Euler", "Euler a", "DPM++ 2M"])
def test_images_equal_two_plain_pipelines(couple: Couple, sampler: str, unpasted: None) -> None:
    shared = {"num_inference_steps": 10, "guidance_scale": 3.0, "negative_prompt": None}
    fields = {"image": picture(), "strength": 0.7}
    plain = couple.expected(sampler, 0.6, "Img2Img", **shared, **fields)
    assert difference(couple.draw(scheduler=sampler, switch_at=0.6, **shared, **fields), plain) <= 1


def test_the_comparison_can_fail(couple: Couple) -> None:
    shared = {"num_inference_steps": 8, "guidance_scale": 1.0, "negative_prompt": None}
    drawn = couple.draw(size="64x48", scheduler="Euler", switch_at=0.5, **shared)
    assert difference(drawn, couple.expected("Euler", 0.8, width=64, height=48, **shared)) > 1


@pytest.mark.parametrize(
    "fields",
    [
        {"size": "64x48"},
        {"image": picture(), "strength": 0.7},
        {"image": picture(), "mask": mask(), "inpaint": InpaintOptions(blur=3)},
        {"image": picture(), "mask": mask(), "strength": 0.7},
    ],
)
@pytest.mark.parametrize("sampler", ["Euler", "Euler a", "DDIM"])
def test_a_model_that_refines_its_own_picture_changes_nothing(
    couple: Couple, fields: dict[str, Any], sampler: str
) -> None:
    """Samplers without a memory of earlier steps go on as if no one had stopped, also around a mask."""
    whole = {"scheduler": sampler, "num_inference_steps": 8, "guidance_scale": 3.0, **fields}
    drawn = couple.drawn(ask(**whole, refiner="tiny-sdxl", switch_at=0.6), couple.base)
    alone = Picture(*couple.base.run_job_with_latents(Job(req=ask(**whole))))
    assert not difference(pixels(drawn.image), pixels(alone.image))


def test_steps_count_as_one_job(couple: Couple) -> None:
    steps: list[StepDone] = []
    request = ask(**REFINED, switch_at=0.75, size="64x48", scheduler="Euler", num_inference_steps=8)
    couple.drawn(request, on_step=steps.append)
    assert steps == [StepDone(number, 8) for number in range(1, 9)]


def test_the_refiner_takes_the_bases_default_sampler(couple: Couple) -> None:
    base = load(DiffusersSDXLCudaWorker, couple.base_path, scheduler="DPM++ 2M")
    request = ask(**REFINED, size="64x48", num_inference_steps=8)
    half_drawn = base.run_first_part(Job(req=request))
    drawn = Picture(*couple.refiner.run_job_with_latents(Job(req=request, half_drawn=half_drawn)))
    assert drawn.png == couple.picture(size="64x48", num_inference_steps=8, scheduler="DPM++ 2M").png
    assert read_recipe(drawn.png).scheduler == "DPM++ 2M"


def test_a_recipe_names_both_models_and_draws_again(couple: Couple) -> None:
    drawn = couple.picture(size="64x48", scheduler="Euler a", num_inference_steps=8, seed=None)
    recipe = read_recipe(drawn.png)
    assert (recipe.checkpoint, recipe.refiner, recipe.switch_at) == ("tiny-sdxl", "tiny-refiner", 0.8)
    assert recipe.checkpoint_hash != recipe.refiner_hash
    assert len(recipe.refiner_hash or "") == 10
    assert couple.drawn(recipe.request()).png == drawn.png
    infotext = Image.open(io.BytesIO(drawn.png)).info["parameters"]
    assert f"Refiner: tiny-refiner [{recipe.refiner_hash}], Refiner switch at: 0.8" in infotext


def test_a_plain_recipe_has_no_fields_of_refiners(couple: Couple) -> None:
    png = couple.base.run_job(Job(req=ask(size="64x48")))[0]
    assert b"refiner" not in png


def test_the_half_drawn_picture_is_pasted_around_its_mask(couple: Couple) -> None:
    drawn = couple.draw(image=picture(), mask=mask(), num_inference_steps=8, switch_at=0.5)
    outside = pixels(mask()) == 0
    assert np.array_equal(drawn[outside], pixels(picture())[outside])
    assert not np.array_equal(drawn[~outside], pixels(picture())[~outside])


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"switch_at": 0.0}, "Invalid switch_at 0.0: expected a number between 0 and 1, such as 0.8"),
        ({"switch_at": 1}, "Invalid switch_at 1: expected a number between 0 and 1"),
        ({"switch_at": "half"}, "Invalid switch_at 'half': expected a number"),
        ({"refiner": "", "switch_at": 0.5}, "switch_at needs a refiner"),
        ({"refiner": 5}, "Invalid refiner 5: expected text"),
        ({"hires": HiresOptions(scale=2)}, "hires draws a second stage, and a refiner the end of the only one"),
        (
            {"switch_at": 0.01, "scheduler": "Euler"},
            "Invalid switch_at 0.01: none of the 4 steps comes before the refiner",
        ),
        ({"switch_at": 0.9}, "Invalid switch_at 0.9: none of the 4 steps is left to the refiner"),
        ({"image": picture(), "strength": 0.3, "switch_at": 0.3}, "none of the 4 steps comes before the refiner"),
    ],
)
def test_wrong_fields_are_refused(couple: Couple, fields: dict[str, Any], sentence: str) -> None:
    request = GenerateRequest.model_construct(prompt="a", **{**REFINED, **fields})
    with pytest.raises(InvalidRequestError, match=sentence) as caught:
        couple.drawn(request)
    assert caught.value.field in ("refiner", "switch_at")


def test_a_worker_alone_refuses_a_refiner(couple: Couple) -> None:
    with pytest.raises(InvalidRequestError, match="Invalid refiner 'tiny-refiner': one worker or engine has one model"):
        couple.base.run_job(Job(req=ask(**REFINED)))


def test_a_model_with_other_latents_cannot_refine(couple: Couple, tmp_path: Path, inpainter: Pair) -> None:
    # The tiny VAEs have equal scales. Those of the released families differ.
    other = load(DiffusersCudaWorker, save_sd15(tmp_path / "sd15"))
    other.pipe.vae.register_to_config(scaling_factor=0.5)
    for refiner in (other, inpainter.worker):
        with pytest.raises(InvalidRequestError, match="its latents are not those of the first model") as caught:
            couple.drawn(ask(**REFINED, num_inference_steps=8, switch_at=0.5), refiner)
        assert caught.value.field == "refiner"


def test_conditions_go_to_the_model_that_takes_them(couple: Couple) -> None:
    shared = {"size": "64x48", "scheduler": "Euler", "num_inference_steps": 8, "guidance_scale": 3.0}
    plain = couple.draw(**shared)
    for conditions in (MicroConditioning(target_size="512x16"), MicroConditioning(aesthetic_score=0)):
        assert difference(couple.draw(**shared, micro_conditioning=conditions), plain)
        worker = couple.refiner if conditions.target_size else couple.base
        with pytest.raises(InvalidRequestError, match="Invalid micro_conditioning.*: only SDXL's .* takes it"):
            worker.run_job(Job(req=ask(**shared, micro_conditioning=conditions)))


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_models_in_other_precisions_hand_over(couple: Couple, dtype: str) -> None:
    refiner = load(SDXLRefinerWorker, couple.refiner_path, dtype)
    request = ask(**REFINED, size="64x48", num_inference_steps=8, scheduler="Euler")
    drawn = couple.drawn(request, refiner)
    assert 0 < difference(pixels(drawn.image), pixels(couple.drawn(request).image)) < 64
    recipe = read_recipe(drawn.png)
    assert (recipe.dtype, recipe.refiner_dtype) == ("fp32", dtype)


def test_the_command_line_draws_and_replays(couple: Couple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_DTYPE", "fp32")
    monkeypatch.setenv("CUDA_DEVICE", "cpu")
    monkeypatch.setenv("SDXL_MODEL", str(couple.base_path))

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(build_app(), arguments)
        assert result.exit_code == 0, result.output
        return result.output

    options = ["--backend", "sdxl", "--size", "64x48", "--steps", "8", "--scheduler", "Euler a", "--seed", "7"]
    refiner = ["--refiner", str(couple.refiner_path), "--switch-at", "0.5"]
    fields = {"size": "64x48", "num_inference_steps": 8, "scheduler": "Euler a", "switch_at": 0.5}
    run("generate", "a lake at dawn", *options, *refiner, "-o", "out.png")
    assert Path("out.png").read_bytes() == couple.picture(**fields).png
    run("generate", "a lake at dawn", *options, *refiner, "--count", "2", "-o", "more.png")
    assert Path("more-1.png").read_bytes() == Path("out.png").read_bytes()
    assert Path("more-2.png").read_bytes() == couple.picture(**fields, seed=8).png
    assert "the same bytes" in run("replay", "out.png", "--refiner", str(couple.refiner_path))
    monkeypatch.setenv("MODEL_ROOT", str(couple.refiner_path.parent))
    assert "the same bytes" in run("replay", "out.png")


def test_python_draws_with_a_loaded_or_named_refiner(couple: Couple) -> None:
    fields: dict[str, Any] = {"size": "64x48", "num_inference_steps": 8, "scheduler": "Euler", "seed": 7}
    drawn = generate("a lake at dawn", **fields, refiner=couple.refiner, worker=couple.base)
    assert drawn.png == couple.picture(size="64x48", num_inference_steps=8, scheduler="Euler").png
    settings = Settings(model=str(couple.base_path), device="cpu", dtype="fp32", backend="sdxl")
    named = generate(
        "a lake at dawn", **fields, refiner=str(couple.refiner_path), worker=couple.base, settings=settings
    )
    assert named.png == drawn.png
    without = generate("a lake at dawn", **fields, refiner="", worker=couple.base)
    assert read_recipe(without.png).refiner is None


def test_python_refuses_workers_of_whole_pictures(couple: Couple) -> None:
    class Plain:
        worker_id = 0

        def run_job(self, job: Job) -> tuple[bytes, int]:
            raise AssertionError

        run_job_with_latents: Any = run_job

    with pytest.raises(InvalidRequestError, match="Invalid refiner: Plain draws whole pictures"):
        generate("a lake at dawn", refiner=Plain(), worker=couple.base)
