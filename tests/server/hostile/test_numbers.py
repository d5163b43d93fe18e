"""Numbers without a sensible meaning are refused; the most extreme that are allowed change nobody else's pictures."""

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
    "guidance_scale above ComfyUI's": {"guidance_scale": 100.1},
    "guidance_rescale": {"guidance_rescale": 1e30},
    "eta": {"eta": 1e30, "scheduler": "DDIM"},
    "s_churn": {"s_churn": 1e30, "scheduler": "Euler"},
    "s_noise": {"s_noise": 1e30, "scheduler": "Euler"},
    "s_tmax": {"s_tmax": 1e300, "scheduler": "Euler"},
}
WEIGHTS = {
    "one": "a (star:1000000)",
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
def test_numbers_beyond_their_bounds_are_refused(attacked: Attacked, fields: dict[str, Any]) -> None:
    answer = attacked.draw(**fields)
    field = next(iter(fields))
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert f"Invalid {field}" in answer.json()["detail"]


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
@pytest.mark.parametrize("prompt", WEIGHTS.values(), ids=WEIGHTS)
def test_weights_beyond_their_bounds_are_refused(attacked: Attacked, field: str, prompt: str) -> None:
    answer = attacked.draw(**{"guidance_scale": 3, field: prompt})
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert f" in {field}: expected -100 to 100" in answer.json()["detail"]


@pytest.mark.parametrize("strength", ["1e30", "-1e30", "1e999", "nan", "9" * 400])
def test_strengths_that_no_style_has_are_refused(attacked: Attacked, strength: str) -> None:
    body = {"prompt": f"a <lora:ink:{strength}>", "width": 64, "height": 64, "steps": 1}
    answer = httpx.post(f"{attacked.url}/sdapi/v1/txt2img", json=body, timeout=LIMIT)
    assert answer.status_code == 422
    assert "Invalid strength" in answer.json()["detail"] or "Unknown style" in answer.json()["detail"]


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
def test_half_a_character_is_refused_in_a_sentence(field: str) -> None:
    fields: dict[str, Any] = {"prompt": "a", field: "ab\ud83d"}
    with pytest.raises(InvalidRequestError, match=f"Invalid {field} .*its character 3 is a lone surrogate"):
        generate(**fields)


@pytest.mark.parametrize("scale", [10**400, float("inf"), float("nan"), -0.1])
def test_a_number_that_is_none_is_refused_without_a_server(scale: float) -> None:
    request = GenerateRequest.model_construct(prompt="a", guidance_scale=scale)
    with pytest.raises(InvalidRequestError, match="Invalid guidance_scale"):
        ResolvedRequest.of(request, native_size="8x8")


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_the_most_extreme_numbers_change_nothing_for_others(
    sdxl_checkpoint: Path, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagegen_core.engine.calibration._PADDING_PAYS", 1e9)  # else the load's timing decides

    def drawn(before: list[dict[str, Any]]) -> tuple[list[bytes], set[tuple[str, tuple[int, ...]]], object]:
        """The reference's pictures after others, the numbers of rows that are refused, and the VAE's precision."""
        settings = Settings(model=str(sdxl_checkpoint), device="cpu", dtype=dtype, recipe=False)
        worker = DiffusersSDXLCudaWorker(settings=settings)
        with LocalEngine(worker) as engine:
            extreme = [engine.submit(ask(**{"seed": 5, **fields})) for fields in before for _ in range(3)]
            beside = engine.submit(ask(seed=9))
            for ticket in extreme:
                try:
                    ticket.result(LIMIT)
                except ImagegenError as error:
                    assert "not finite" in str(error)
            pictures = [beside, *(engine.submit(ask(seed=seed)) for seed in range(4))]
            drawn = [ticket.result(LIMIT).png for ticket in pictures]
            refused = {(group.kind, group.refused) for group in engine.report().groups if "64x64, 77" in group.kind}
            return drawn, refused, worker.pipe.vae.dtype

    assert drawn(EXTREME) == drawn([])
