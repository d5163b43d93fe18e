"""Hires fix equals two plain pipelines, in one job that changes its group."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from imagegen_core import HiresOptions, InvalidRequestError, Job, LocalEngine, StepDone, Variation, read_recipe
from tests.pictures_in.conftest import Pair, ask, difference, mask, picture

SAMPLERS = ["LCM", "Euler", "Euler a", "DPM++ 2M", "Heun", "DDIM"]


def expected(pair: Pair, sampler: str, size: tuple[int, int], **second: Any) -> Any:
    """Draw with a plain text-to-image and a plain image-to-image pipeline, by one generator; `fresh` begins it anew."""
    generator, fresh = torch.Generator("cpu").manual_seed(7), second.pop("fresh", False)
    fields: dict[str, Any] = {"guidance_scale": 3.0, "generator": generator}
    first, then = pair.plain(""), pair.plain("Img2Img")
    schedulers = pair.worker._schedulers
    for pipe in (first, then):
        pipe.scheduler = copy.deepcopy(schedulers._prototype(*schedulers._find(sampler, None)).scheduler)
    shape = {"width": 64, "height": 48, "num_inference_steps": 4, "output_type": "latent"}
    latents = first("a lake at dawn", **shape, **fields).images
    mode = second.pop("mode", {"mode": "bilinear"})
    larger = torch.nn.functional.interpolate(latents, size=(size[1] // 8, size[0] // 8), **mode)
    prompt = second.pop("prompt", "a lake at dawn")
    if fresh:
        generator.manual_seed(7)
    result = then(prompt, image=larger, output_type="np", **{"num_inference_steps": 4, **second}, **fields).images[0]
    return (result * 255).round().astype(np.uint8)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_pictures_equal_two_plain_pipelines(pair: Pair, sampler: str) -> None:
    plain = expected(pair, sampler, (96, 72), strength=0.6)
    hires = HiresOptions(scale=1.5, strength=0.6)
    drawn = pair.draw(size="64x48", scheduler=sampler, guidance_scale=3.0, hires=hires)
    assert difference(drawn, plain) <= 1


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        # modules/shared_items.py of A1111 1.10
        ("latent (antialiased)", {"mode": "bilinear", "antialias": True}),
        ("latent (bicubic)", {"mode": "bicubic"}),
        ("latent (bicubic antialiased)", {"mode": "bicubic", "antialias": True}),
        ("latent (nearest)", {"mode": "nearest"}),
        ("latent (nearest-exact)", {"mode": "nearest-exact"}),
    ],
)
def test_latents_are_enlarged_in_a1111s_ways(pair: Pair, name: str, mode: dict[str, Any]) -> None:
    plain = expected(pair, "Euler", (56, 72), strength=0.6, mode=mode)
    hires = HiresOptions(size="56x72", strength=0.6, upscaler=name)
    assert difference(pair.draw(size="64x48", scheduler="Euler", guidance_scale=3.0, hires=hires), plain) <= 1


@pytest.mark.parametrize("sampler", ["Euler", "Euler a"])
def test_fresh_noise_begins_the_generator_anew(pair: Pair, sampler: str) -> None:
    plain = expected(pair, sampler, (96, 72), strength=0.6, fresh=True)
    hires = HiresOptions(scale=1.5, strength=0.6, fresh_noise=True)
    drawn = pair.draw(size="64x48", scheduler=sampler, guidance_scale=3.0, hires=hires)
    assert difference(drawn, plain) <= 1
    other = pair.draw(size="64x48", scheduler=sampler, guidance_scale=3.0, hires=HiresOptions(scale=1.5, strength=0.6))
    assert difference(drawn, other) > 1


def test_fresh_noise_has_the_variation(pair: Pair) -> None:
    fields = {"size": "64x48", "hires": HiresOptions(scale=1.5, steps=1, strength=1.0, fresh_noise=True)}
    plain, varied = (pair.draw(variation=Variation(seed=8, strength=share), **fields) for share in (0.0, 0.3))
    assert difference(plain, varied) > 1


def test_the_second_stage_has_its_own_size_steps_and_prompt(pair: Pair) -> None:
    plain = expected(pair, "Euler", (80, 96), strength=1.0, num_inference_steps=6, prompt="a hill")
    hires = HiresOptions(size="80x96", strength=1.0, steps=6, prompt="a hill")
    drawn = pair.picture(size="64x48", scheduler="Euler", guidance_scale=3.0, hires=hires)
    assert drawn.size == (80, 96)
    assert difference(np.asarray(drawn.image), plain) <= 1


def test_steps_count_both_stages_as_one_job(pair: Pair) -> None:
    steps: list[StepDone] = []
    hires = HiresOptions(scale=2, strength=0.5, steps=6)
    job = Job(req=ask(size="64x48", num_inference_steps=4, hires=hires), on_step=steps.append)
    pair.worker.run_job(job)
    assert [(done.step, done.steps) for done in steps] == [(step, 7) for step in range(1, 8)]


def test_both_stages_share_passes_and_stay_exact(pair: Pair) -> None:
    requests: list[dict[str, Any]] = [
        {"size": "64x48", "hires": HiresOptions(scale=1.5), "seed": 1},
        {"size": "64x48", "hires": HiresOptions(size="96x72"), "seed": 2, "guidance_scale": 3.0},
        {"size": "64x48", "seed": 3},
        {"size": "96x72", "seed": 4, "num_inference_steps": 9},
        {"image": picture(), "hires": HiresOptions(scale=1.5), "seed": 5},
        {"size": "96x72", "hires": HiresOptions(size="64x48"), "seed": 6},
    ]
    alone = [pair.picture(**fields).png for fields in requests]
    with LocalEngine(pair.worker, previews=True) as engine:
        tickets = [engine.submit(ask(**fields)) for fields in requests]
        leaving = [engine.submit(ask(size="64x48", hires=HiresOptions(scale=2), seed=seed)) for seed in range(3)]
        together = [ticket.result(120).png for ticket in tickets]
        for ticket in leaving:
            ticket.cancel()
        keys = {group.kind for group in engine.report().groups}
    assert together == alone
    assert any("96x72" in key for key in keys)


def test_a_recipe_draws_both_stages_again(pair: Pair) -> None:
    drawn = pair.picture(size="64x48", hires=HiresOptions(scale=1.5, strength=0.5, scheduler="Euler"))
    again, _ = pair.worker.run_job(Job(req=read_recipe(drawn.png).request()))
    assert again == drawn.png


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a small scale": ({"hires": {"scale": 0.5}}, "from 1 to 8"),
    "both": ({"hires": {"scale": 2, "size": "64x64"}}, "leave one out"),
    "options alone": ({"hires": {"strength": 0.5}}, "neither a scale nor a size"),
    "a mask": ({"hires": {"scale": 2}, "image": picture(), "mask": mask()}, "leave one of them out"),
    "a large size": ({"hires": {"scale": 8}, "size": "2048x64"}, "Invalid hires.scale"),
}


@pytest.mark.parametrize(("fields", "sentence"), WRONG.values(), ids=WRONG)
def test_wrong_options_are_refused(pair: Pair, fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidRequestError, match=sentence):
        pair.draw(**fields)


def test_a_checkpoint_with_9_channels_refuses_it(inpainter: Pair) -> None:
    with pytest.raises(InvalidRequestError, match="leave hires out"):
        inpainter.draw(size="64x48", hires=HiresOptions(scale=2))
