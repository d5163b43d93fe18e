"""The setup of every test: an empty environment, no network for models, and tiny checkpoints."""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.scheduling import long_first, pytest_xdist_make_scheduler  # noqa: F401 - a hook

# The model libraries read these variables at import: no hub, and an empty cache.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="imagegen-empty-hub-")

# The proofs of batches are cached there; no verdict of an earlier run may hide a fault.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="imagegen-empty-cache-")

# Tests run in parallel, a process for each CPU. Pictures of 64x64 gain nothing from more threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Plain diffusers imports torchvision if `[upscale]` installed it, even if it does not fit the installed torch. The
# conftests below import diffusers.
if importlib.util.find_spec("torchvision"):
    from imagegen_core.diffusion.torchvision import make_torchvision_importable

    make_torchvision_importable()

settings.register_profile("imagegen", deadline=None, derandomize=True)
settings.load_profile("imagegen")

_PREFIXES = ("IMAGEGEN_", "CUDA_", "SDXL_", "SD15_", "SD3_", "FLUX_", "OPENVINO_", "STORAGE_", "DEFAULT_")
_NAMES = ("MODEL", "MODEL_ROOT", "BACKEND", "USE_SDXL", "NUM_WORKERS", "QUEUE_MAX", "PORT")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out the tests for CUDA on machines without it, and begin with the long files."""
    long_first(items)
    if any(item.get_closest_marker("cuda") for item in items):
        import torch

        if not torch.cuda.is_available():
            items[:] = [item for item in items if not item.get_closest_marker("cuda")]


def pytest_collection_finish() -> None:
    """Leave the imported modules out of garbage collections, which would take 0.3 s each."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Hide outside configuration: variables, and an imagegen.toml in the working directory."""
    for name in list(os.environ):
        if name in _NAMES or name.startswith(_PREFIXES):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no-cache"))
    monkeypatch.chdir(tmp_path)
    handlers = list(logging.getLogger().handlers)
    yield
    logging.getLogger().handlers[:] = handlers


@pytest.fixture(autouse=True)
def _own_weights() -> None:
    """Let no test share weights with a forgotten model of an earlier test: the memory of its models would vary."""
    if (module := sys.modules.get("imagegen_core.diffusion.shared_weights")) is not None:
        vars(module.SHARED_WEIGHTS).update(vars(module.SharedWeights()))


@pytest.fixture(scope="session")
def sdxl_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random SDXL checkpoint, 64x64."""
    from tests.checkpoints import save_sdxl

    return save_sdxl(tmp_path_factory.mktemp("sdxl") / "tiny-sdxl")


@pytest.fixture(scope="session")
def sd15_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random SD1.5 checkpoint, 64x64."""
    from tests.checkpoints import save_sd15

    return save_sd15(tmp_path_factory.mktemp("sd15") / "tiny-sd15")


@pytest.fixture(scope="session")
def sd3_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Stable Diffusion 3 checkpoint, 64x64."""
    from tests.checkpoints import save_sd3

    return save_sd3(tmp_path_factory.mktemp("sd3") / "tiny-sd3")


@pytest.fixture(scope="session")
def flux_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random FLUX.1 dev checkpoint; its native size is FLUX.1's, because its files name none."""
    from tests.checkpoints import save_flux

    return save_flux(tmp_path_factory.mktemp("flux") / "tiny-flux")
