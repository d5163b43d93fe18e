"""Authors' type checkers know the contract: they take what keeps it, and point at the line that does not."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FILES = Path(__file__).parent / "typing"

Checker = Callable[[Path, Path], set[int]]


def _mypy(file: Path, folder: Path) -> set[int]:
    """The lines in which mypy finds errors."""
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file",
        "",
        "--cache-dir",
        folder,
        "--no-error-summary",
    ]
    done = subprocess.run([*command, file.name], cwd=file.parent, capture_output=True, text=True, check=False)
    found = re.findall(rf"^{file.name}:(\d+): error: ", done.stdout, re.MULTILINE)
    assert bool(found) == bool(done.returncode), done.stdout + done.stderr
    return {int(line) for line in found}


def _pyright(file: Path, folder: Path) -> set[int]:
    """The lines in which pyright finds errors, at its strictest."""
    copies = shutil.copytree(file.parent, folder / "authors")
    (folder / "pyrightconfig.json").write_text(
        json.dumps({"include": [f"authors/{file.name}"], "typeCheckingMode": "strict"})
    )
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", "-p", folder]
    done = subprocess.run(command, cwd=copies, capture_output=True, text=True, check=False)
    told = json.loads(done.stdout)
    assert told["summary"]["filesAnalyzed"] == 1
    found = told["generalDiagnostics"]
    errors = [one for one in found if one["severity"] == "error"]
    assert bool(errors) == bool(done.returncode), done.stdout + done.stderr
    return {one["range"]["start"]["line"] + 1 for one in errors}


@pytest.mark.parametrize("checker", [_mypy, _pyright])
def test_what_keeps_the_contract_is_taken(checker: Checker, tmp_path: Path) -> None:
    assert checker(FILES / "right.py", tmp_path) == set()


@pytest.mark.parametrize("checker", [_mypy, _pyright])
def test_what_breaks_the_contract_is_pointed_at(checker: Checker, tmp_path: Path) -> None:
    lines = (FILES / "wrong.py").read_text().splitlines()
    wrong = {number for number, line in enumerate(lines, start=1) if line.endswith("# WRONG")}
    assert checker(FILES / "wrong.py", tmp_path) == wrong
