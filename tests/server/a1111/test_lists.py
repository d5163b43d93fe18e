"""A1111's lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import webuiapi
from fastapi.testclient import TestClient
from safetensors.torch import save_file

from imagegen_core import LocalEngine, Settings
from imagegen_core.server import create_app
from imagegen_sdxl import DiffusersSDXLCudaWorker
from tests.server.conftest import Running


def test_samplers_models_and_upscalers_are_listed(client: webuiapi.WebUIApi, server: Running) -> None:
    assert "LCM" in client.util_get_sampler_names()
    schedules = {"automatic", "uniform", "karras", "exponential", "sgm_uniform", "simple", "normal", "ddim", "beta"}
    assert {*client.util_get_scheduler_names()} == schedules | {"align_your_steps"}
    assert len(client.util_get_model_names()) == 1
    assert client.util_get_current_model() == client.util_get_model_names()[0]
    assert [upscaler["name"] for upscaler in client.get_upscalers()][:1] == ["None"]
    assert client.get_loras() == []
    assert client.get_scripts() == {"txt2img": [], "img2img": []}
    assert client.get_memory()["ram"]["total"] > 0
    assert client.get_cmd_flags()["api"] is True


def test_lists_without_entries_are_empty(client: webuiapi.WebUIApi, server: Running) -> None:
    for path in ("sd-vae", "sd-modules", "hypernetworks", "face-restorers", "prompt-styles"):
        assert server.http.get(f"/sdapi/v1/{path}").json() == [], path
    for path in ("realesrgan-models", "script-info", "extensions"):
        assert server.http.get(f"/sdapi/v1/{path}").json() == [], path
    assert server.http.get("/sdapi/v1/embeddings").json() == {"loaded": {}, "skipped": {}}
    for path in ("refresh-checkpoints", "refresh-loras", "refresh-vae", "skip"):
        response = server.http.post(f"/sdapi/v1/{path}")
        assert (response.status_code, response.json()) == (200, None), path
    for path in ("unload-checkpoint", "reload-checkpoint", "interrupt"):
        assert server.http.post(f"/sdapi/v1/{path}").json() == {}, path


def test_embeddings_are_listed_with_their_vectors(sdxl_checkpoint: Path, tmp_path: Path) -> None:
    save_file({part: torch.randn(2, 32) for part in ("clip_l", "clip_g")}, tmp_path / "papercut.safetensors")
    on_cpu: dict[str, Any] = {"model": str(sdxl_checkpoint), "device": "cpu", "dtype": "fp32"}
    settings = Settings(embeddings_root=tmp_path, **on_cpu)
    with LocalEngine(DiffusersSDXLCudaWorker(settings=settings)) as engine:
        embeddings = TestClient(create_app(settings, engine)).get("/sdapi/v1/embeddings").json()
    unknown = dict.fromkeys(("step", "sd_checkpoint", "sd_checkpoint_name"))
    assert embeddings == {"loaded": {"papercut": {**unknown, "shape": 32, "vectors": 2}}, "skipped": {}}
