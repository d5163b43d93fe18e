"""Pictures beside a torchvision that the torch here is not made for, and what is said where they cannot be drawn."""

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
    pytest.mark.skipif(torch.version.cuda is not None, reason="its torchvision is made for this torch"),
]
MEND = "from imagegen_core.diffusion.torchvision import make_torchvision_importable as mend; mend(); "
DRAW = "from imagegen_core import generate; generate('a', seed=1, num_inference_steps=1)"


def _run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder with the torchvision installed here, whose import asks for an operator more."""
    installed = distribution("torchvision")
    for file in installed.files or ():
        if file.suffix == ".py" or file.parent.suffix == ".dist-info":
            copy = tmp_path / "broken" / file
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.locate().read_bytes())
    asks = "\ntorch.library.register_fake('torchvision::of_tomorrow')(lambda: None)\n"
    with (tmp_path / "broken" / "torchvision" / "_meta_registrations.py").open("a") as module:
        module.write(asks)
    return tmp_path / "broken"


def test_it_does_not_import_by_itself() -> None:
    assert "operator torchvision::nms does not exist" in _run("import torchvision").stderr


def test_it_imports_once_what_it_describes_is_declared() -> None:
    done = _run(
        MEND + MEND + "import diffusers, spandrel, torch, torchvision; print(diffusers.StableDiffusionXLPipeline)\n"
        "torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)"
    )
    assert "StableDiffusionXLPipeline" in done.stdout
    assert "Couldn't load custom C++ ops" in done.stderr  # as torchvision itself says it


def test_nothing_is_said_where_it_is_not_installed(sdxl_checkpoint: Path) -> None:
    hidden = "import sys; sys.modules['torchvision'] = None\n"  # as the import system marks what is not there
    done = _run(hidden + DRAW, SDXL_MODEL=str(sdxl_checkpoint), CUDA_DEVICE="cpu")
    assert (done.returncode, done.stderr) == (0, "")


def test_pictures_are_drawn_beside_it(sdxl_checkpoint: Path) -> None:
    done = _run(DRAW, SDXL_MODEL=str(sdxl_checkpoint), CUDA_DEVICE="cpu")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_doctor_finds_nothing_wrong_with_it() -> None:
    assert examined(Plugin("sdxl", "imagegen-sdxl", "1.0")).status == "ok"


def test_what_cannot_be_mended_is_named(broken: Path, sdxl_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To who draws, and by the doctor: the library, its version, and the torch that it is not made for."""
    monkeypatch.setenv("PYTHONPATH", str(broken), prepend=os.pathsep)
    library = f"torchvision {version('torchvision')}"
    cause = f"fails in {library}: RuntimeError: operator torchvision::of_tomorrow does not exist"
    mend = f"install the torchvision that is made for torch {torch.__version__}, or uninstall torchvision where nothing"

    drawn = _run(DRAW, SDXL_MODEL=str(sdxl_checkpoint), CUDA_DEVICE="cpu").stderr.splitlines()[-1]
    assert "Backend 'sdxl' cannot be used, importing diffusers:StableDiffusionXLPipeline " + cause in drawn
    assert mend in drawn
    assert "anew" not in drawn

    found = examined(Plugin("sdxl", "imagegen-sdxl", "1.0"))
    assert found.status == "broken"
    assert cause in found.cause
    assert found.mend.startswith(mend)
