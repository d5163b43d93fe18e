"""The installation script, with a stub of Python and a stub of pip that records its arguments."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs.fences import ROOT

DISTRIBUTIONS = {path.parent.name for path in ROOT.glob("src/*/pyproject.toml")}
PYTHON = """#!/bin/sh
mkdir -p "$3/bin"
printf '#!/bin/sh\necho "$@" > pip-arguments\n' > "$3/bin/pip"
chmod +x "$3/bin/pip"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the script, and a `python3` that makes an environment with a stub of pip."""
    folder = tmp_path / "a checkout"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/python3").write_text(PYTHON)
    (folder / "bin/python3").chmod(0o755)
    shutil.copy(ROOT / "install", folder)
    return folder


def _install(folder: Path, *extras: str) -> list[str]:
    """Run the script from another folder, and return pip's arguments."""
    environ = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    subprocess.run([folder / "install", *extras], check=True, cwd=folder.parent, env=environ)
    return (folder / "pip-arguments").read_text().split()


def test_the_script_installs_every_distribution_with_the_constraints(folder: Path) -> None:
    arguments = _install(folder)
    assert arguments[:4] == ["install", "--quiet", "--constraint", "constraints.txt"]
    assert {Path(word.partition("[")[0]).name for word in arguments[4:]} == DISTRIBUTIONS
    assert "./src/imagegen_core[diffusers]" in arguments


def test_the_script_adds_extras_to_an_existing_environment(folder: Path) -> None:
    _install(folder)
    (folder / "bin/python3").unlink()
    assert "./src/imagegen_core[diffusers,server,ray]" in _install(folder, "server", "ray")


def test_the_script_fails_if_pip_fails(folder: Path) -> None:
    _install(folder)
    (folder / ".venv/bin/pip").write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(subprocess.CalledProcessError):
        _install(folder)
