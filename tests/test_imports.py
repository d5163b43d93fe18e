"""The cost of imports, and their direction."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import imagegen_core

SOURCES = Path(imagegen_core.__file__).parent.parent
PLUGINS = (
    "imagegen_sdxl",
    "imagegen_sd15",
    "imagegen_sd3",
    "imagegen_flux",
    "imagegen_diffusers",
    "imagegen_openvino",
    "imagegen_demo",
)

# The core's packages and modules, lowest first. Each imports from itself and from the ones before it.
LAYERS = [
    "errors",
    "parts",
    "redaction",
    "distributions",
    "resources",
    "importing",
    "paths",
    "schedules",
    "samplers",
    "styles",
    "parameter",
    "request",
    "numerics",
    "memory_plan",
    "picture",
    "job",
    "worker",
    "stepped_worker",
    "callback_worker",
    "description",
    "original_names",
    "family",
    "format",
    "backend",
    "extension",
    "settings",
    "images",
    "modes",
    "replay",
    "storage",
    "models",
    "plugins",
    "resolution",
    "diffusion",
    "shortcuts",
    "scaffold",
    "engine",
    "hosting",
    "server",
    "testing",
    "cluster",
    "pytest_plugin",
    "cli",
]


def _fresh(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    "code",
    [
        "import imagegen_core",
        "from imagegen_core import *",
        "; ".join(f"import {package}.plugin" for package in PLUGINS),
        "from imagegen_core import Registry; Registry.discover()",
        "import imagegen_core.cli",
    ],
)
def test_importing_imagegen_does_not_import_torch(code: str) -> None:
    assert _fresh(f"import sys\n{code}\nprint('torch' in sys.modules, 'diffusers' in sys.modules)") == "False False"


def test_importing_a_plugin_does_not_import_pydantic() -> None:
    assert _fresh("import sys, imagegen_sdxl.plugin\nprint('pydantic' in sys.modules)") == "False"


def test_every_public_name_exists() -> None:
    for name in imagegen_core.__all__:
        assert getattr(imagegen_core, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
        _ = imagegen_core.Nonsense


def test_the_names_of_the_contract_are_public() -> None:
    contract = {
        "Job",
        "GenerateRequest",
        "StyleLoraRequest",
        "Worker",
        "StyleDef",
        "STYLE_REGISTRY",
        "InvalidRequestError",
    }
    assert contract <= set(imagegen_core.__all__)


def _layer(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("path", sorted((SOURCES / "imagegen_core").rglob("*.py")), ids=lambda path: path.stem)
def test_imports_point_one_way(path: Path) -> None:
    own_layer = path.relative_to(SOURCES / "imagegen_core").with_suffix("").parts[0]
    if own_layer == "__init__":
        return
    levels = {layer: level for level, layer in enumerate(LAYERS)}
    for module in _imported(path):
        if module.startswith("imagegen_core."):
            assert levels[_layer(module)] <= levels[own_layer], f"{path} imports {module}"
        assert not module.startswith(PLUGINS), f"{path} knows a plugin: {module}"
        if own_layer != "diffusion":
            assert module.split(".")[0] not in ("torch", "diffusers", "transformers"), f"{path} imports {module}"


@pytest.mark.parametrize("package", PLUGINS)
def test_a_plugin_imports_only_public_modules(package: str) -> None:
    public = {"imagegen_core", "imagegen_core.diffusion"}
    for path in (SOURCES / package).glob("*.py"):
        imported = {module for module in _imported(path) if module.startswith("imagegen_core")}
        assert imported <= public, f"{path} imports {imported - public}"


def _imported(path: Path) -> list[str]:
    modules = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            modules.append(node.module or "")
        elif isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
    return modules
