"""``imagegen plugins check``: the kit without a test file."""

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
    """With the wrong workers installed."""
    info = tmp_path / "site" / "imagegen_wrong-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: imagegen-wrong\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[imagegen.plugins]\nwrong = imagegen_wrong.plugin\n")
    return {**os.environ, "PYTHONPATH": f"{info.parent}{os.pathsep}{WRONG}"}


def _check(*arguments: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [*IMAGEGEN, "plugins", "check", *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


def test_a_plugin_that_keeps_the_contract_passes() -> None:
    done = _check("toy")
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("backend toy\n")
    assert "  ok    a seed means the same picture\n" in done.stdout
    assert "  skip  what it is not without has an effect[scheduler] (the backend is without scheduler" in done.stdout
    assert " 0 failed, " in done.stdout.splitlines()[-1]


def test_a_check_that_fails_says_what_it_protects(environ: dict[str, str]) -> None:
    done = _check("Silent", environ=environ)
    assert done.returncode == 1
    report = done.stdout[done.stdout.index("  FAIL  each step is told\n") :].splitlines()
    assert report[2].strip() == "Progress bars, previews and the A1111 API's progress live from `job.on_step`."
    assert done.stdout.count("FAIL") == 1


def test_pytest_shows_what_a_failed_check_protects(environ: dict[str, str], tmp_path: Path) -> None:
    test_file = tmp_path / "test_silent.py"
    test_file.write_text(
        "from imagegen_core.testing import BackendConformance\n\nclass TestSilent(BackendConformance):\n"
        '    backend = "Silent"\n'
    )
    command = [sys.executable, "-m", "pytest", "-k", "each_step or whole_jobs", "--rootdir", tmp_path, test_file]
    done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "1 failed, 1 passed" in done.stdout
    _, shown = done.stdout.split("What this check protects")
    assert "Progress bars, previews and the A1111 API's progress live from `job.on_step`." in shown


def test_what_the_plugin_prints_stays_out_of_the_report(environ: dict[str, str]) -> None:
    done = _check("Prints", "--json", environ=environ)
    failed = [result for result in json.loads(done.stdout) if result["outcome"] == "failed"]
    assert [(result["offer"], result["check"]) for result in failed] == [("backend Prints", "drawing prints nothing")]


def test_a_missing_checkpoint_is_told_once() -> None:
    done = _check("sd15")
    assert done.returncode == 1
    assert (
        "  FAIL  it can be made\n        No checkpoint is configured for backend 'sd15': set SD15_MODEL" in done.stdout
    )
    assert done.stdout.count("FAIL") == 1


def test_what_is_not_installed_is_a_sentence() -> None:
    done = _check("nonsense")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: No plugin 'nonsense' is installed: there are demo, ")
    assert not done.stdout


def test_ctrl_c_ends_it_without_a_verdict() -> None:
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = [*IMAGEGEN[:2], f"{_INTERRUPTED}; {IMAGEGEN[2]}", "plugins", "check", "toy"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 128 + signal.SIGINT
    assert "passed" not in done.stdout
    assert "Interrupted" in done.stderr


# The toy's first picture interrupts the program, also where its parent ignores interruptions, as shells' jobs do.
_INTERRUPTED = (
    "import os, signal, imagegen_toy.worker as toy; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "toy.ToyWorker.begin = lambda *_: os.kill(os.getpid(), signal.SIGINT)"
)
