"""Selection of the backend: by name, else USE_SDXL, else the checkpoint; of several the preferred one."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagegen_core import Backend, BackendNotFoundError, ModelLoadError, ModelNotFoundError, Registry, Settings
from imagegen_core.resolution.backends import select_backend
from imagegen_core.resolution.checkpoints import resolve_checkpoint
from tests.plugins.installed import Installer

pytestmark = pytest.mark.usefixtures("families")


@pytest.fixture
def families(install: Installer) -> None:
    install.backend("sdxl", architectures=("sdxl",))
    install.backend("sd15", architectures=("sd15", "sd2"))


def _select(**environ: str) -> Backend:
    return select_backend(Registry.discover(environ), Settings.load(environ=environ))


def test_the_backends_name_has_priority(sd15_checkpoint: Path) -> None:
    assert _select(BACKEND="sdxl", MODEL=str(sd15_checkpoint), USE_SDXL="0").name == "sdxl"
    assert _select(IMAGEGEN_BACKEND="sd15", USE_SDXL="1").name == "sd15"


def test_use_sdxl_has_priority_over_the_checkpoint(sd15_checkpoint: Path) -> None:
    assert _select(USE_SDXL="1", MODEL=str(sd15_checkpoint)).name == "sdxl"


def test_the_checkpoint_selects_the_backend(sd15_checkpoint: Path, sdxl_checkpoint: Path) -> None:
    assert _select(MODEL=str(sd15_checkpoint)).name == "sd15"
    assert _select(MODEL=str(sdxl_checkpoint), USE_SDXL="0").name == "sdxl"
    assert _select(MODEL_ROOT=str(sd15_checkpoint.parent), MODEL=sd15_checkpoint.name).name == "sd15"


def test_a_backends_own_checkpoint_selects_it(sd15_checkpoint: Path) -> None:
    assert _select(SD15_MODEL=str(sd15_checkpoint)).name == "sd15"


def test_of_two_backends_with_own_checkpoints_the_preferred_one_is_selected(caplog: pytest.LogCaptureFixture) -> None:
    assert _select(SD15_MODEL="a", SDXL_MODEL="b").name == "sd15"
    words = "SD15_MODEL, SDXL_MODEL are set: the first counts; set IMAGEGEN_BACKEND or IMAGEGEN_BACKENDS to choose"
    assert caplog.messages == [words]
    caplog.clear()
    assert _select(SD15_MODEL="a", SDXL_MODEL="b", IMAGEGEN_BACKENDS="sdxl,sd15").name == "sdxl"
    assert not caplog.messages


def test_the_only_installed_backend_is_selected() -> None:
    assert _select(IMAGEGEN_PLUGINS="sd15").name == "sd15"


def test_without_a_checkpoint_the_preferred_backend_is_selected(install: Installer) -> None:
    assert _select().name == "sd15"
    assert _select(IMAGEGEN_BACKENDS="sdxl").name == "sdxl"
    install.backend("zeal", architectures=("sdxl",), more="priority=1")
    assert _select().name == "zeal"


def test_another_backend_for_a_family_changes_nothing_by_itself(install: Installer, sdxl_checkpoint: Path) -> None:
    install.backend("fastxl", architectures=("sdxl",))
    assert _select(MODEL=str(sdxl_checkpoint)).name == "sdxl"
    assert _select(MODEL=str(sdxl_checkpoint), BACKEND="fastxl").name == "fastxl"
    assert _select(USE_SDXL="1").name == "sdxl"


@pytest.mark.parametrize(("priority", "name"), [(1, "fastxl"), (0, "sdxl"), (-100, "sdxl")])
def test_the_backend_of_the_highest_priority_is_selected(
    install: Installer, sdxl_checkpoint: Path, priority: int, name: str
) -> None:
    install.backend("fastxl", architectures=("sdxl",), more=f"priority={priority}")
    assert _select(MODEL=str(sdxl_checkpoint)).name == name


def test_the_configured_order_has_priority_over_the_plugins(
    install: Installer, sdxl_checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install.backend("fastxl", architectures=("sdxl",), more="priority=1")
    install.backend("otherxl", architectures=("sdxl",))
    assert _select(MODEL=str(sdxl_checkpoint), IMAGEGEN_BACKENDS="sdxl").name == "sdxl"
    assert _select(MODEL=str(sdxl_checkpoint), IMAGEGEN_BACKENDS="otherxl, sdxl").name == "otherxl"
    assert not caplog.messages
    Path("imagegen.toml").write_text('backends = ["absent", "otherxl"]')
    assert _select(MODEL=str(sdxl_checkpoint)).name == "otherxl"
    (warning,) = caplog.messages
    assert warning.startswith("backends in imagegen.toml, line 1 names absent, which is not installed: installed are")


def test_a_backend_without_architectures_draws_with_no_checkpoint(install: Installer, sdxl_checkpoint: Path) -> None:
    install.backend("clouds", more="priority=1")
    assert _select(MODEL=str(sdxl_checkpoint)).name == "sdxl"


def test_the_error_without_backends_says_what_to_install() -> None:
    with pytest.raises(
        BackendNotFoundError, match="No backend is installed: pip install imagegen-sdxl or imagegen-sd15"
    ):
        _select(IMAGEGEN_PLUGINS="none")


def test_the_error_for_an_unsupported_checkpoint_says_what_to_install(sdxl_checkpoint: Path) -> None:
    words = "is a StableDiffusionXLPipeline checkpoint, and no installed plugin draws it: imagegen-sdxl is installed, "
    with pytest.raises(ModelLoadError, match=f"{words}and disabled: IMAGEGEN_PLUGINS does not name it; add it"):
        _select(MODEL=str(sdxl_checkpoint), IMAGEGEN_PLUGINS="sd15")


def test_the_error_for_use_sdxl_without_sdxl_names_the_setting() -> None:
    with pytest.raises(
        BackendNotFoundError, match="draws sdxl .USE_SDXL asks for it.*imagegen-sdxl is installed, and disabled"
    ):
        _select(USE_SDXL="1", IMAGEGEN_PLUGINS="sd15")


def test_the_error_for_a_missing_checkpoint_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=f"No checkpoint 'gone': it is not below {tmp_path}, not a path"):
        _select(MODEL="gone", MODEL_ROOT=str(tmp_path))


DEMO = """
from pathlib import Path
from imagegen_core import NamedModel, hookimpl

@hookimpl
def imagegen_models():
    return [NamedModel("demo", "a demo", Path({path!r}), fallback=True)]
"""


def test_a_fallback_model_of_an_undeclared_family_fits_no_backend(install: Installer, sdxl_checkpoint: Path) -> None:
    install.add("demo", DEMO.format(path=str(sdxl_checkpoint)))
    registry = Registry.discover({"IMAGEGEN_PLUGINS": "sd15,demo"})
    with pytest.raises(ModelNotFoundError, match="No checkpoint is configured for backend 'sd15': set SD15_MODEL"):
        resolve_checkpoint(Settings(), registry.backend("sd15"), registry)


def test_without_a_checkpoint_the_fallback_model_selects_the_backend(install: Installer, sdxl_checkpoint: Path) -> None:
    install.add("demo", DEMO.format(path=str(sdxl_checkpoint)))
    assert _select().name == "sdxl"
