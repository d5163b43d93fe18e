"""Hires of ``txt2img`` draws A1111's sizes and steps."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from imagegen_core import GenerateRequest, HiresOptions, Job, read_recipe
from tests.server.a1111.conftest import Poster, pixels_of

HIRES: dict[str, Any] = {"enable_hr": True, "hr_scale": 1.5, "denoising_strength": 0.7}


def test_hires_fields_are_ignored_while_hires_is_off(txt2img: Poster) -> None:
    off = {"enable_hr": False, "hr_scale": "1.0", "hr_upscaler": "ESRGAN_4x", "hr_second_pass_steps": 12.5}
    more = {"hr_prompt": "", "hr_resize_x": 7, "hr_checkpoint_name": "other", "denoising_strength": 3}
    assert (txt2img.draw(**off, **more) == txt2img.draw()).all()


def test_all_second_steps_are_drawn_as_the_last_of_more(txt2img: Poster) -> None:
    pixels = txt2img.draw(**HIRES, seed=81)
    assert txt2img.steps_of(81) == 4 + 4
    request = GenerateRequest(
        prompt="a lake at dawn",
        seed=81,
        size="64x48",
        num_inference_steps=4,
        scheduler="Euler",
        schedule="Automatic",
        hires=HiresOptions(scale=1.5, steps=5, strength=4 / 5, fresh_noise=True),  # int(4 / 0.7) = 5
    )
    png, _ = txt2img.server.worker.worker.run_job(Job(req=request))
    assert (pixels == pixels_of(base64.b64encode(png).decode())).all()


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({"hr_scale": 1.5}, (96, 72)),
        ({"hr_scale": 1.3}, (80, 56)),  # int(64 * 1.3) // 8 * 8, int(48 * 1.3) // 8 * 8
        ({"hr_scale": 9, "hr_resize_x": 128}, (128, 96)),
        ({"hr_resize_y": 64}, (80, 64)),  # 64 * 64 // 48 = 85
        ({"hr_resize_x": 96, "hr_resize_y": 72}, (96, 72)),
        ({"hr_resize_x": 96, "hr_resize_y": 68}, (96, 72)),  # 4 pixels too many are less than a latent
    ],
)
def test_sizes_follow_a1111(txt2img: Poster, fields: dict[str, Any], size: tuple[int, int]) -> None:
    answer = txt2img.answer(steps=1, **{"enable_hr": True, **fields})
    height, width, _ = pixels_of(answer["images"][0]).shape
    assert (width, height) == size
    info = json.loads(answer["info"])
    assert (info["width"], info["height"]) == (64, 48)  # as in A1111, the size of the first stage


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"hr_second_pass_steps": 3}, {"steps": 4, "strength": 3 / 4}),
        ({"hr_second_pass_steps": 3.5}, {"steps": 4, "strength": 3 / 4}),
        ({"hr_upscaler": None, "denoising_strength": None}, {"steps": 5, "strength": 4 / 5}),
        ({"denoising_strength": 0}, {"steps": 4, "strength": 1 / 4}),
        ({"hr_prompt": "a hill", "hr_negative_prompt": "fog"}, {"prompt": "a hill", "negative_prompt": "fog"}),
        ({"hr_sampler_name": "Euler a"}, {"scheduler": "Euler a", "schedule": "Automatic"}),
        ({"hr_sampler_name": "DPM++ 2M", "scheduler": "Karras"}, {"scheduler": "DPM++ 2M", "schedule": "Karras"}),
        ({"hr_scheduler": "SGM Uniform"}, {"schedule": "SGM Uniform"}),
        ({"hr_sampler_name": "Use same sampler", "hr_scheduler": "Use same scheduler", "hr_cfg": 7}, {}),
        ({"hr_upscaler": "None"}, {"upscaler": "lanczos"}),
        ({"hr_upscaler": "Latent (bicubic antialiased)"}, {"upscaler": "latent (bicubic antialiased)"}),
        ({"hr_upscaler": "Lanczos"}, {"upscaler": "lanczos"}),
        ({"hr_checkpoint_name": "Use same checkpoint", "hr_additional_modules": ["Use same choices"]}, {}),
    ],
)
def test_fields_have_a1111s_meaning(txt2img: Poster, fields: dict[str, Any], expected: dict[str, Any]) -> None:
    answer = txt2img.answer(**{**HIRES, "cfg_scale": 7, **fields})
    recipe = read_recipe(base64.b64decode(answer["images"][0]))
    assert {**(recipe.hires or {})} == {
        "scale": 1.5,
        "steps": 5,
        "strength": 4 / 5,
        "fresh_noise": True,
        **expected,
    }


def test_the_answer_describes_the_request(txt2img: Poster) -> None:
    fields = {"hr_second_pass_steps": 3, "hr_sampler_name": "Euler a", "hr_prompt": "a hill, green"}
    info = json.loads(txt2img.answer(**HIRES, **fields)["info"])
    assert info["denoising_strength"] == 0.7
    assert info["extra_generation_params"] == {
        "Denoising strength": 0.7,
        "Hires upscale": 1.5,
        "Hires sampler": "Euler a",
        "Hires prompt": "a hill, green",
        "Hires steps": 3,
        "Hires upscaler": "Latent",
    }
    said = 'Hires sampler: Euler a, Hires prompt: "a hill, green", Hires upscaler: Latent, Version: imagegen'
    assert said in info["infotexts"][0]
    assert "Hires steps: 3, " in info["infotexts"][0]


def test_the_modes_of_latents_are_listed(txt2img: Poster) -> None:
    names = [mode["name"] for mode in txt2img.server.http.get("/sdapi/v1/latent-upscale-modes").json()]
    # modules/shared_items.py of A1111 1.10
    more = ("antialiased", "bicubic", "bicubic antialiased", "nearest", "nearest-exact")
    assert names == ["Latent", *(f"Latent ({mode})" for mode in more)]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an upscaler": ({"hr_upscaler": "R-ESRGAN 4x+"}, "Invalid hr_upscaler 'R-ESRGAN 4x+': expected one of Latent, "),
    "another mode of latents": ({"hr_upscaler": "Latent (sharp)"}, "Latent (nearest-exact), None, "),
    "a small scale": ({"hr_scale": 0.5}, "Invalid hr_scale 0.5: expected a number from 1 to 8"),
    "no number": ({"hr_scale": "x"}, "Invalid hr_scale 'x'"),
    "other proportions": ({"hr_resize_x": 96, "hr_resize_y": 96}, "other proportions would cut a part off"),
    "a large size": ({"hr_resize_x": 9000}, "Invalid hr_resize_x 9000: expected a whole number from 0 to 8192"),
    "a high size": ({"hr_resize_x": 8192, "height": 128}, "Invalid hr_resize_x '8192x16384'"),
    "a negative size": ({"hr_resize_x": -64}, "Invalid hr_resize_x"),
    "guidance": ({"hr_cfg": 3, "cfg_scale": 7}, "Invalid hr_cfg 3: both stages have the same guidance here"),
    "a checkpoint": ({"hr_checkpoint_name": "other"}, "hr_checkpoint_name='other' is nothing this server does"),
    "modules": ({"hr_additional_modules": ["a"]}, "hr_additional_modules="),
    "strength": ({"denoising_strength": 2}, "Invalid denoising_strength 2: expected a number from 0 to 1"),
    "steps": ({"denoising_strength": 0.01}, "its 4 steps are the last of 400, and this server takes up to 150"),
    "negative steps": ({"hr_second_pass_steps": -2}, "Invalid steps -2: expected a whole number from 1 to 150"),
    "no strength": ({"denoising_strength": 5e-324}, "its 4 steps are the last of 1000000000"),
    "many steps": ({"hr_second_pass_steps": 10**300}, "Invalid steps 1000000000"),
    "a sampler": ({"hr_sampler_name": "nix"}, "Unknown scheduler 'nix'"),
    "a LoRA": ({"hr_prompt": "a hill <lora:ink:1>"}, "The LoRAs in hr_prompt are not those in prompt"),
    "syntax": ({"hr_prompt": "[a:b:0.5]"}, "changes at a step, which is not drawn here"),
    "an option": ({"override_settings": {"use_old_hires_fix_width_height": True}}, "hires draws here with False"),
}


@pytest.mark.parametrize(("fields", "sentence"), WRONG.values(), ids=WRONG)
def test_wrong_fields_are_refused(txt2img: Poster, fields: dict[str, Any], sentence: str) -> None:
    assert sentence in txt2img.refusal(**{**HIRES, **fields})
