"""LoRA tags in prompts are styles."""

from __future__ import annotations

import base64
import contextlib
import io
from pathlib import Path
from typing import Any

import diffusers
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from imagegen_core import LocalEngine, Settings
from imagegen_core.server import create_app
from imagegen_sdxl import DiffusersSDXLCudaWorker
from tests.loras import as_kohya, random_lora, save


@pytest.fixture(scope="module")
def styled_worker(sdxl_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    loras = tmp_path_factory.mktemp("loras")
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(sdxl_checkpoint, local_files_only=True)
    save(as_kohya(random_lora(pipe)), loras / "ink.safetensors")
    return DiffusersSDXLCudaWorker(
        settings=Settings(model=str(sdxl_checkpoint), device="cpu", dtype="fp32", lora_root=loras)
    )


def test_lora_strengths_are_compared_as_numbers(styled_worker: Any, sdxl_checkpoint: Path) -> None:
    fields = {"seed": 7, "width": 64, "height": 64, "cfg_scale": 1, "steps": 1}
    settings = Settings.load(environ={}, model=str(sdxl_checkpoint), lora_root=styled_worker.styles["ink"].path.parent)
    engine = LocalEngine(styled_worker)
    with contextlib.closing(engine), TestClient(create_app(settings, engine)) as http:
        pictures = {}
        for tag in ("", "0", "0.0", "0.7", "0.70", "+.7", "1", "1.0", "1e0"):
            prompt = f"a star <lora:ink:{tag}>" if tag else "a star"
            response = http.post("/sdapi/v1/txt2img", json={"prompt": prompt, **fields})
            assert response.status_code == 200, response.text
            pictures[tag] = Image.open(io.BytesIO(base64.b64decode(response.json()["images"][0]))).tobytes()
        refused = http.post("/sdapi/v1/txt2img", json={"prompt": "a star <lora:ink:0.5>", **fields})
    assert pictures[""] == pictures["0"] == pictures["0.0"]
    assert pictures["0.7"] == pictures["0.70"] == pictures["+.7"]
    assert pictures["1"] == pictures["1.0"] == pictures["1e0"]
    assert len({*pictures.values()}) == 3
    assert refused.status_code == 422
    assert "Invalid strength 0.5 of <lora:ink>: its style has 0.4, 0.7, 1, and 0 is off" in refused.text
