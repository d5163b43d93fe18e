"""Type checkers accept code that keeps the contract, and report each line that breaks it."""

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
    """Return the lines in which mypy finds errors."""
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
    numbers = re.findall(rf"^{file.name}:(\d+): error: ", done.stdout, re.MULTILINE)
    assert bool(numbers) == bool(done.returncode), done.stdout + done.stderr
    return {int(line) for line in numbers}


def _pyright(file: Path, folder: Path) -> set[int]:
    """Return the lines in which pyright finds errors in strict mode."""
    copies = shutil.copytree(file.parent, folder / "authors")
    (folder / "pyrightconfig.json").write_text(
        json.dumps({"include": [f"authors/{file.name}"], "typeCheckingMode": "strict"})
    )
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", "-p", folder]
    done = subprocess.run(command, cwd=copies, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == 1
    diagnostics = report["generalDiagnostics"]
    errors = [diagnostic for diagnostic in diagnostics if diagnostic["severity"] == "error"]
    assert bool(errors) == bool(done.returncode), done.stdout + done.stderr
    return {diagnostic["range"]["start"]["line"] + 1 for diagnostic in errors}


@pytest.mark.parametrize("checker", [_mypy, _pyright])
def test_code_that_keeps_the_contract_is_accepted(checker: Checker, tmp_path: Path) -> None:
    assert checker(FILES / "right.py", tmp_path) == set()


@pytest.mark.parametrize("checker", [_mypy, _pyright])
def test_each_line_that_breaks_the_contract_is_reported(checker: Checker, tmp_path: Path) -> None:
    lines = (FILES / "wrong.py").read_text().splitlines()
    wrong = {number for number, line in enumerate(lines, start=1) if line.endswith("# WRONG")}
    assert checker(FILES / "wrong.py", tmp_path) == wrong
