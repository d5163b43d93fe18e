"""Samplers and schedules of A1111's clients."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from imagegen_core import read_recipe
from tests.server.conftest import Running


def test_sampler_and_schedule_are_applied(server: Running) -> None:
    result = server.http.post(
        "/sdapi/v1/txt2img",
        json={"prompt": "x", "width": 64, "height": 72, "steps": 3, "sampler_name": "DPM++ 2M", "scheduler": "Karras"},
    ).json()
    recipe = read_recipe(base64.b64decode(result["images"][0]))
    assert (recipe.scheduler, recipe.schedule, recipe.steps, recipe.height) == ("DPM++ 2M", "Karras", 3, 72)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        # The samplers' default schedules in modules/sd_samplers_kdiffusion.py of A1111 1.10.
        ({"sampler_name": "DPM++ 2M"}, {"scheduler": "DPM++ 2M", "schedule": "Karras"}),
        ({"sampler_name": "DPM++ 2M SDE", "scheduler": "Automatic"}, {"schedule": "Exponential"}),
        ({"sampler_name": "Euler a", "scheduler": "automatic"}, {"scheduler": "Euler a", "schedule": "Uniform"}),
        ({"sampler_name": "Euler a", "scheduler": "sgm_uniform"}, {"schedule": "SGM Uniform"}),
        ({"sampler_name": "DPM++ 2M Karras"}, {"scheduler": "DPM++ 2M Karras", "schedule": None}),
        ({"scheduler": "Automatic"}, {"scheduler": "LCM", "schedule": None}),
        # A1111's clients send its defaults too; they request nothing.
        ({"sampler_name": "Euler", "eta": 1.0, "s_noise": 1.0, "s_churn": 0.0}, {"eta": None, "s_noise": None}),
        ({"eta": 1.0, "s_noise": 1, "s_churn": 0, "s_tmin": 0, "s_tmax": 0}, {"eta": None, "s_churn": None}),
        ({"sampler_name": "DPM++ 2M", "eta": 0, "s_noise": 0, "s_churn": 0}, {"eta": None, "s_noise": None}),
        ({"sampler_name": "DDIM", "eta": 0.0, "s_noise": 0}, {"eta": 0.0, "s_noise": None}),
        ({"sampler_name": "DDIM", "eta": 1.0}, {"eta": 1.0}),
        # ComfyUI's default schedule; its clients also send it to A1111.
        ({"sampler_name": "Euler a", "scheduler": "normal"}, {"schedule": "Normal"}),
        ({"sampler_name": "DDIM", "scheduler": "normal"}, {"scheduler": "DDIM", "schedule": None}),
        ({"sampler_name": "DPM++ 2M Karras", "scheduler": "normal"}, {"scheduler": "DPM++ 2M Karras"}),
        ({"scheduler": "normal"}, {"scheduler": "LCM", "schedule": None}),
        ({"sampler_name": "Euler", "s_churn": 2.0, "s_noise": 1.1}, {"s_churn": 2.0, "s_noise": 1.1}),
    ],
)
def test_sampling_fields_have_a1111s_meaning(server: Running, fields: dict[str, Any], expected: dict[str, Any]) -> None:
    body = {"prompt": "x", "width": 64, "height": 64, "steps": 2, **fields}
    response = server.http.post("/sdapi/v1/txt2img", json=body)
    assert response.status_code == 200, response.text
    recipe = read_recipe(base64.b64decode(response.json()["images"][0]))
    assert {name: getattr(recipe, name) for name in expected} == expected
