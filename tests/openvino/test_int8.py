"""int8: near the precision's pictures, shown in the plan, learned once, and the same in company."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import imagegen_demo
from imagegen_core import GenerateRequest, Job, LocalEngine, SettingsError
from imagegen_core.styles import LoraUse
from imagegen_openvino import int8
from imagegen_openvino.int8 import _levels_with_zero
from imagegen_openvino.network_cache import NetworkCache
from imagegen_openvino.worker import OpenVinoUNetWorker, make_worker
from tests.openvino.conftest import draw, settings

DEMO = Path(imagegen_demo.__file__).parent / "checkpoint"
pytestmark = pytest.mark.skipif(
    not any(torch.cpu.get_capabilities().get(name) for name in ("avx512_vnni", "amx_int8")),
    reason="the setting int8 needs a CPU with VNNI or AMX",
)


@pytest.fixture(autouse=True)
def small_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small layers compute in int8."""
    monkeypatch.setattr(int8, "_CHANNELS", 8)
    monkeypatch.setattr(int8, "_WEIGHTS", 64)


def _levels(picture: Any) -> Any:
    return np.asarray(picture.image, float)


def test_the_demos_picture_changes_a_little(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"prompt": "a red star", "size": "128x128", "guidance_scale": 3.0, "num_inference_steps": 4}
    plain = draw(make_worker(0, settings(DEMO, dtype="bf16")), **fields)
    worker = make_worker(0, settings(DEMO, dtype="bf16", int8=True))
    drawn = draw(worker, **fields)
    assert 0 < np.abs(_levels(drawn) - _levels(plain)).mean() < 4
    assert worker.numerics.computation == "int8"
    computed = {
        node.get_rt_info()["primitiveType"].value
        for node in worker._unet._usual._request.get_compiled_model().get_runtime_model().get_ops()
    }
    assert {"brgconv_avx512_I8", "brgemm_avx512_I8"} <= computed or any("I8" in name for name in computed)

    monkeypatch.setattr(OpenVinoUNetWorker, "run_job", None)  # a second start draws no trial pictures
    again = make_worker(0, settings(DEMO, dtype="bf16", int8=True))
    monkeypatch.undo()
    assert draw(again, **fields) == drawn


def test_a_lora_changes_the_picture_as_without_int8() -> None:
    fields = {"prompt": "a red star", "size": "128x128", "num_inference_steps": 4}
    loras = [LoraUse(DEMO.parent / "storybook.safetensors", 1.0, "storybook")]
    plain, quantized = (make_worker(0, settings(DEMO, dtype="bf16", int8=chosen)) for chosen in (False, True))
    bare, styled = (_levels(draw(plain, chosen, **fields)) for chosen in ((), loras))
    ours = _levels(draw(quantized, loras, **fields))
    assert np.abs(ours - styled).mean() < np.abs(ours - bare).mean() / 4
    assert draw(quantized, **fields) == draw(make_worker(0, settings(DEMO, dtype="bf16", int8=True)), **fields)


def test_int8_draws_the_same_bytes_in_company(sd15_checkpoint: Path) -> None:
    worker = make_worker(0, settings(sd15_checkpoint, int8=True))
    requests = [
        GenerateRequest(prompt=f"a lake {seed}", seed=seed, num_inference_steps=2, guidance_scale=1 + seed % 3)
        for seed in range(4)
    ]
    alone = [worker.run_job(Job(req=request))[0] for request in requests]
    with LocalEngine(worker) as engine:
        tickets = [engine.submit(request) for request in requests]
        assert [ticket.result(60).png for ticket in tickets] == alone


def test_damaged_ranges_are_learned_again(sd15_checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = make_worker(0, settings(sd15_checkpoint, int8=True))
    cache = NetworkCache()
    (cache._place(first._origins[0]) / "ranges.json").write_text("[")
    assert cache.ranges(first._origins[0]) is None
    assert "drawing trial pictures again" in caplog.text


@pytest.mark.parametrize(("low", "high"), [(-1.0, 7.0), (0.5, 3.0), (-3.0, -1.0), (0.0, 0.0), (-0.001, 100.0)])
def test_zero_is_a_level(low: float, high: float) -> None:
    least, most = _levels_with_zero(low, high)
    step = (most - least) / 255
    assert least <= min(low, 0) + step / 2
    assert most >= max(high, 0) - step / 2
    assert abs(least / step - round(least / step)) < 1e-9


def test_a_cpu_without_instructions_for_int8_is_refused(sd15_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    with pytest.raises(SettingsError, match="int8=true needs a CPU with VNNI or AMX"):
        make_worker(0, settings(sd15_checkpoint, int8=True))
