"""``imagegen plugins check``: the conformance kit without a test file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

IMAGEGEN = [sys.executable, "-c", "from imagegen_core.cli import main; main()"]
WRONG = Path(__file__).parent / "wrong"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Environment variables for a process with the wrong workers installed."""
    info = tmp_path / "site" / "imagegen_wrong-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: imagegen-wrong\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[imagegen.plugins]\nwrong = imagegen_wrong.plugin\n")
    return {**os.environ, "PYTHONPATH": f"{info.parent}{os.pathsep}{WRONG}"}


def _check(*arguments: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [*IMAGEGEN, "plugins", "check", *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


def test_a_plugin_that_keeps_the_contract_passes() -> None:
    completed = _check("toy")
    assert completed.returncode == 0, completed.stdout
    assert completed.stdout.startswith("backend toy\n")
    assert "  ok    equal seeds give equal pictures\n" in completed.stdout
    assert "  skip  supported fields have an effect[scheduler] (the backend is without scheduler" in completed.stdout
    assert " 0 failed, " in completed.stdout.splitlines()[-1]


def test_a_failed_check_explains_its_purpose(environ: dict[str, str]) -> None:
    completed = _check("Silent", environ=environ)
    assert completed.returncode == 1
    report = completed.stdout[completed.stdout.index("  FAIL  each step is reported\n") :].splitlines()
    assert report[2].strip() == "Progress bars, previews and the A1111 API's progress live from `job.on_step`."
    assert completed.stdout.count("FAIL") == 1


def test_pytest_explains_a_failed_checks_purpose(environ: dict[str, str], tmp_path: Path) -> None:
    test_file = tmp_path / "test_silent.py"
    test_file.write_text(
        "from imagegen_core.testing import BackendConformance\n\nclass TestSilent(BackendConformance):\n"
        '    backend = "Silent"\n'
    )
    command = [sys.executable, "-m", "pytest", "-k", "each_step or run_job_equals", "--rootdir", tmp_path, test_file]
    completed = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "1 failed, 1 passed" in completed.stdout
    _, explanation = completed.stdout.split("The purpose of this check")
    assert "Progress bars, previews and the A1111 API's progress live from `job.on_step`." in explanation


def test_a_plugins_output_stays_out_of_the_report(environ: dict[str, str]) -> None:
    completed = _check("Prints", "--json", environ=environ)
    failed = [result for result in json.loads(completed.stdout) if result["outcome"] == "failed"]
    assert [(result["offer"], result["check"]) for result in failed] == [("backend Prints", "drawing prints nothing")]


def test_a_missing_checkpoint_is_reported_once() -> None:
    completed = _check("sd15")
    assert completed.returncode == 1
    assert (
        "  FAIL  it can be made\n        No checkpoint is configured for backend 'sd15': set SD15_MODEL"
        in completed.stdout
    )
    assert completed.stdout.count("FAIL") == 1


def test_an_unknown_plugin_gives_a_clear_error() -> None:
    completed = _check("nonsense")
    assert completed.returncode == 2
    assert completed.stderr.startswith("Error: No plugin 'nonsense' is installed: there are demo, ")
    assert not completed.stdout


def test_ctrl_c_ends_the_check_without_a_result() -> None:
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = [*IMAGEGEN[:2], f"{_INTERRUPTED}; {IMAGEGEN[2]}", "plugins", "check", "toy"]
    completed = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert completed.returncode == 128 + signal.SIGINT
    assert "passed" not in completed.stdout
    assert "Interrupted" in completed.stderr


# The toy's first picture interrupts the program, also in a shell's background job, which ignores interruptions.
_INTERRUPTED = (
    "import os, signal, imagegen_toy.worker as toy; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "toy.ToyWorker.begin = lambda *_: os.kill(os.getpid(), signal.SIGINT)"
)
