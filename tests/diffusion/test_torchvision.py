"""Drawing with a torchvision that does not match torch, and the error if drawing is impossible."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import distribution, version
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from imagegen_core.plugins.doctor import examined
from imagegen_core.plugins.plugin import Plugin

pytestmark = [
    pytest.mark.skipif(not find_spec("torchvision"), reason="imagegen-core[upscale] is not installed"),
    pytest.mark.skipif(torch.version.cuda is not None, reason="the installed torchvision matches torch"),
]
MEND = "from imagegen_core.diffusion.torchvision import make_torchvision_importable as mend; mend(); "
DRAW = "from imagegen_core import generate; generate('a', seed=1, num_inference_steps=1)"


def _run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder with a copy of the installed torchvision; its import needs one more operator."""
    installed = distribution("torchvision")
    for file in installed.files or ():
        if file.suffix == ".py" or file.parent.suffix == ".dist-info":
            copy = tmp_path / "broken" / file
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.locate().read_bytes())
    registration = "\ntorch.library.register_fake('torchvision::of_tomorrow')(lambda: None)\n"
    with (tmp_path / "broken" / "torchvision" / "_meta_registrations.py").open("a") as module:
        module.write(registration)
    return tmp_path / "broken"


def test_torchvision_does_not_import_by_itself() -> None:
    assert "operator torchvision::nms does not exist" in _run("import torchvision").stderr


def test_torchvision_imports_after_its_operators_are_declared() -> None:
    process = _run(
        MEND + MEND + "import diffusers, spandrel, torch, torchvision; print(diffusers.StableDiffusionXLPipeline)\n"
        "torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)"
    )
    assert "StableDiffusionXLPipeline" in process.stdout
    assert "Couldn't load custom C++ ops" in process.stderr  # torchvision's own message


def test_drawing_without_torchvision_prints_nothing(sdxl_checkpoint: Path) -> None:
    hidden = "import sys; sys.modules['torchvision'] = None\n"  # the import system's mark for a missing module
    process = _run(hidden + DRAW, SDXL_MODEL=str(sdxl_checkpoint), CUDA_DEVICE="cpu")
    assert (process.returncode, process.stderr) == (0, "")


def test_drawing_with_torchvision_prints_nothing(sdxl_checkpoint: Path) -> None:
    process = _run(DRAW, SDXL_MODEL=str(sdxl_checkpoint), CUDA_DEVICE="cpu")
    assert (process.returncode, process.stderr) == (0, "")


def test_the_doctor_finds_no_problem_with_torchvision() -> None:
    assert examined(Plugin("sdxl", "imagegen-sdxl", "1.0")).status == "ok"


def test_an_unusable_torchvision_is_named(broken: Path, sdxl_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error and the doctor name the library, its version, and the torch that it does not match."""
    monkeypatch.setenv("PYTHONPATH", str(broken), prepend=os.pathsep)
    library = f"torchvision {version('torchvision')}"
    cause = f"fails in {library}: RuntimeError: operator torchvision::of_tomorrow does not exist"
    remedy = (
        f"install the torchvision that is made for torch {torch.__version__}, or uninstall torchvision where nothing"
    )

    error = _run(DRAW, SDXL_MODEL=str(sdxl_checkpoint), CUDA_DEVICE="cpu").stderr.splitlines()[-1]
    assert "Backend 'sdxl' cannot be used, importing diffusers:StableDiffusionXLPipeline " + cause in error
    assert remedy in error
    assert "again" not in error

    examination = examined(Plugin("sdxl", "imagegen-sdxl", "1.0"))
    assert examination.status == "broken"
    assert cause in examination.cause
    assert examination.mend.startswith(remedy)
