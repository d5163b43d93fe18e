"""The plugin beside torch's backends: its choice, its settings and its plan."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import imagegen_openvino
from imagegen_core import GenerateRequest, Job, Registry, Settings, SettingsError, load_worker
from imagegen_core.resolution.backends import select_backend
from imagegen_core.testing import BackendConformance
from imagegen_openvino.worker import make_worker
from tests.openvino.conftest import Pair, settings


class TestOpenVino(BackendConformance):
    backend = "openvino"

    @pytest.fixture(scope="class")
    @classmethod
    def settings(cls, sd15_checkpoint: Path) -> Settings:
        return Settings(model=str(sd15_checkpoint))


def test_only_the_settings_choose_it(sd15_checkpoint: Path) -> None:
    registry, model = Registry.discover(), str(sd15_checkpoint)
    assert select_backend(registry, Settings(model=model)).name == "sd15"
    for chosen in (Settings(model=model, backend="openvino"), Settings(model=model, backends=("openvino",))):
        assert select_backend(registry, chosen).name == "openvino"
    worker = load_worker(settings=Settings.load(environ={"BACKEND": "openvino", "MODEL": model}))
    assert type(worker).__name__ == "OpenVinoStableDiffusionWorker"


def test_a_signal_after_unloaded_models_ends_no_process() -> None:
    code = """
import gc, os, signal
from imagegen_core import Settings
from imagegen_openvino.runtime import Runtime
first, second = Runtime(Settings()), Runtime(Settings())
del first
gc.collect()
del second
gc.collect()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"device": "tpu"}, r"device=tpu, but OpenVINO finds no such device here, only .*cpu.*: choose"),
        ({"dtype": "fp16"}, r"dtype=fp16, but OpenVINO's CPU does not compute in that precision here"),
        ({"compile": True}, r"compile is for torch, and the backend is 'openvino': unset it"),
        ({"enable_xformers": True}, r"enable_xformers is for torch"),
        ({"attention_slicing": True}, r"attention_slicing is for torch"),
        ({"vae_dtype": "fp16"}, r"vae_dtype=fp16, but OpenVINO's CPU does not compute in that precision here"),
        ({"cuda_graphs": True}, r"cuda_graphs is for torch"),
        ({"memory": "4GB"}, r"memory is for torch"),
    ],
)
def test_settings_that_it_cannot_heed_are_refused(sd15_checkpoint: Path, fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        make_worker(0, settings(sd15_checkpoint, **fields))


def test_the_plan_names_openvino(pair: Pair) -> None:
    ours, theirs = pair.ours.numerics, pair.theirs.numerics
    assert (ours.attention, ours.layout, ours.device, ours.precision) == ("openvino", "openvino", "cpu", "fp32")
    assert ours.threads == theirs.threads
    assert ours.network == theirs.network
    assert ours.versions.keys() - theirs.versions.keys() == {"openvino", "imagegen-openvino"}


def test_the_vae_has_a_precision_of_its_own(pair: Pair) -> None:
    low = make_worker(0, settings(pair.checkpoint, dtype="bf16", vae_dtype="fp32"))
    assert (low.numerics.precision, low.numerics.vae_precision) == ("bf16", "fp32")


def test_tiles_are_decoded(sd15_checkpoint: Path, pair: Pair) -> None:
    tiled = make_worker(0, settings(pair.checkpoint, vae_tiling=True))
    assert tiled.numerics.tiles_above == 0
    assert tiled.run_job(Job(req=GenerateRequest(prompt="a lake", seed=1, size="64x64")))


def test_the_plugin_imports_only_public_names() -> None:
    public = {"imagegen_core", "imagegen_core.diffusion"}
    for path in Path(imagegen_openvino.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("imagegen_core"):
                assert node.module in public, f"{path} imports {node.module}"
