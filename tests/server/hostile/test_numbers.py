"""Numbers out of range are refused; extreme numbers in range do not change other clients' pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from imagegen_core import GenerateRequest, ImagegenError, InvalidRequestError, LocalEngine, Settings, generate
from imagegen_core.request import ResolvedRequest
from imagegen_core.settings import LoraSettings, StyleSettings
from imagegen_core.styles import LoraUse
from imagegen_sdxl import DiffusersSDXLCudaWorker
from tests.engine.conftest import ask
from tests.server.conftest import LIMIT
from tests.server.hostile.conftest import Attacked

REFUSED: dict[str, dict[str, Any]] = {
    "guidance_scale": {"guidance_scale": 1e30},
    "guidance_scale above ComfyUI's limit": {"guidance_scale": 100.1},
    "guidance_rescale": {"guidance_rescale": 1e30},
    "eta": {"eta": 1e30, "scheduler": "DDIM"},
    "s_churn": {"s_churn": 1e30, "scheduler": "Euler"},
    "s_noise": {"s_noise": 1e30, "scheduler": "Euler"},
    "s_tmax": {"s_tmax": 1e300, "scheduler": "Euler"},
}
WEIGHTS = {
    "single": "a (star:1000000)",
    "negative": "a (star:-101)",
    "nested": "((star:11):11)",
    "brackets": "(" * 60 + "star",
    "infinite": f"(star:{'9' * 400})",
    "mixed": "([" + "(" * 60 + "star])",
}
EXTREME: list[dict[str, Any]] = [
    {"guidance_scale": 100, "num_inference_steps": 8},
    {"guidance_scale": 100, "guidance_rescale": 1.0},
    {"prompt": "a (star:100) (hill:-100)", "guidance_scale": 100},
    {"prompt": "(star:100) (hill:-99.9)"},
    {"scheduler": "Euler", "s_churn": 100, "s_noise": 100, "num_inference_steps": 8},
]


@pytest.mark.parametrize("fields", REFUSED.values(), ids=REFUSED)
def test_numbers_out_of_range_are_refused(attacked: Attacked, fields: dict[str, Any]) -> None:
    response = attacked.draw(**fields)
    field = next(iter(fields))
    assert (response.status_code, response.json()["field"]) == (422, field)
    assert f"Invalid {field}" in response.json()["detail"]


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
@pytest.mark.parametrize("prompt", WEIGHTS.values(), ids=WEIGHTS)
def test_weights_out_of_range_are_refused(attacked: Attacked, field: str, prompt: str) -> None:
    response = attacked.draw(**{"guidance_scale": 3, field: prompt})
    assert (response.status_code, response.json()["field"]) == (422, field)
    assert f" in {field}: expected -100 to 100" in response.json()["detail"]


@pytest.mark.parametrize("strength", ["1e30", "-1e30", "1e999", "nan", "9" * 400])
def test_lora_strengths_out_of_range_are_refused(attacked: Attacked, strength: str) -> None:
    body = {"prompt": f"a <lora:ink:{strength}>", "width": 64, "height": 64, "steps": 1}
    response = httpx.post(f"{attacked.url}/sdapi/v1/txt2img", json=body, timeout=LIMIT)
    assert response.status_code == 422
    assert "Invalid strength" in response.json()["detail"] or "Unknown style" in response.json()["detail"]


@pytest.mark.parametrize("strength", [1e30, float("inf"), float("nan")])
def test_configured_strengths_have_bounds(strength: float) -> None:
    with pytest.raises(ValueError, match="strength"):
        LoraSettings(path=Path("a"), strength=strength)
    with pytest.raises(ValueError, match="levels"):
        StyleSettings(lora_path=Path("a"), levels=(strength,))
    request = ask().with_loras([LoraUse(Path("a"), strength, "ink")])
    with pytest.raises(InvalidRequestError, match="Invalid strength .* of the LoRA 'ink': expected a number from -100"):
        ResolvedRequest.of(request, native_size="8x8")


@pytest.mark.parametrize("field", ["prompt", "negative_prompt", "scheduler", "schedule"])
def test_half_a_surrogate_pair_is_refused_with_its_position(field: str) -> None:
    fields: dict[str, Any] = {"prompt": "a", field: "ab\ud83d"}
    with pytest.raises(InvalidRequestError, match=f"Invalid {field} .*its character 3 is a lone surrogate"):
        generate(**fields)


@pytest.mark.parametrize("scale", [10**400, float("inf"), float("nan"), -0.1])
def test_an_invalid_guidance_scale_is_refused_without_a_server(scale: float) -> None:
    request = GenerateRequest.model_construct(prompt="a", guidance_scale=scale)
    with pytest.raises(InvalidRequestError, match="Invalid guidance_scale"):
        ResolvedRequest.of(request, native_size="8x8")


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_extreme_numbers_do_not_change_other_pictures(sdxl_checkpoint: Path, dtype: Any) -> None:
    def draw_after(before: list[dict[str, Any]]) -> tuple[list[bytes], set[tuple[str, tuple[int, ...]]], object]:
        """Return pictures drawn after other requests, the refused numbers of rows, and the VAE's precision."""
        settings = Settings(model=str(sdxl_checkpoint), device="cpu", dtype=dtype, recipe=False)
        worker = DiffusersSDXLCudaWorker(settings=settings)
        with LocalEngine(worker) as engine:
            extreme = [engine.submit(ask(**{"seed": 5, **fields})) for fields in before for _ in range(3)]
            parallel = engine.submit(ask(seed=9))
            for ticket in extreme:
                try:
                    ticket.result(LIMIT)
                except ImagegenError as error:
                    assert "not finite" in str(error)
            tickets = [parallel, *(engine.submit(ask(seed=seed)) for seed in range(4))]
            pictures = [ticket.result(LIMIT).png for ticket in tickets]
            refused = {(group.kind, group.refused) for group in engine.report().groups if "64x64, 77" in group.kind}
            return pictures, refused, worker.pipe.vae.dtype

    assert draw_after(EXTREME) == draw_after([])
