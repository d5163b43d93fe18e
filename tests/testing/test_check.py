"""``imagegen plugins check``: the conformance kit without a test file."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from imagegen_core import testing
from imagegen_core.cli.kit import KITS
from imagegen_core.pytest_plugin import QUICK

IMAGEGEN = [sys.executable, "-c", "from imagegen_core.cli import main; main()"]
WRONG = Path(__file__).parent / "wrong"
SLOW = """
from dataclasses import replace
from imagegen_core import hookimpl
from imagegen_toy.plugin import BACKEND

@hookimpl
def imagegen_backends():
    return [replace(BACKEND, name=name, worker=f"slow_workers:{name.capitalize()}") for name in ("hangs", "counts")]
"""
SLOW_WORKERS = """
import os, time
from imagegen_toy.worker import ToyWorker

class Hangs(ToyWorker):
    def begin(self, job):
        if job.req.seed == 8:
            time.sleep(600)
        return super().begin(job)

class Counts(ToyWorker):
    def __init__(self, worker_id=0, settings=None):
        super().__init__(worker_id, settings)
        self._writes_recipe = False  # it would name the toy

    def finish(self, state):
        with open(os.environ["COUNT"], "a") as file:
            file.write("1")
        return super().finish(state)
"""
SPEAKS = """
from imagegen_core import hookimpl

@hookimpl
def imagegen_cli(app):
    app.command("speak")(lambda: None)
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Environment variables for a process with the wrong workers and the plugins of this file installed."""
    info = tmp_path / "site" / "imagegen_wrong-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: imagegen-wrong\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[imagegen.plugins]\nwrong = imagegen_wrong.plugin\nslow = slow\nspeaks = speaks\n"
    )
    (info.parent / "slow.py").write_text(SLOW)
    (info.parent / "slow_workers.py").write_text(SLOW_WORKERS)
    (info.parent / "speaks.py").write_text(SPEAKS)
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


def test_results_appear_as_they_come(environ: dict[str, str]) -> None:
    command = [*IMAGEGEN, "plugins", "check", "hangs", "-k", "equal_seeds or other_seeds"]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        process.kill()  # the other check hangs
    assert lines == ["backend hangs\n", "  ok    equal seeds give equal pictures\n"]


def test_quick_checks_draw_few_pictures(environ: dict[str, str], tmp_path: Path) -> None:
    count = tmp_path / "count"
    completed = _check("counts", "--quick", environ={**environ, "COUNT": str(count)})
    assert completed.returncode == 0, completed.stdout
    assert " not selected" in completed.stdout.splitlines()[-1]
    assert len(count.read_text()) <= 20
    assert "  ok    the picture is a png\n" in completed.stdout


@pytest.mark.parametrize("kit", KITS.values())
def test_every_kit_has_quick_checks(kit: str) -> None:
    checks = [check for name, check in inspect.getmembers(getattr(testing, kit)) if name.startswith("test_")]
    marked = [check for check in checks if any(mark.name == QUICK for mark in getattr(check, "pytestmark", ()))]
    assert marked


def test_an_expression_selects_checks() -> None:
    completed = _check("toy", "-k", "seeds and not random", "--json")
    names = [result["check"] for result in json.loads(completed.stdout)]
    assert names == ["equal seeds give equal pictures", "other seeds give other pictures"]


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("a seed", "Error: Invalid -k 'a seed': expected words of the checks' names with and, or, not and parentheses"),
        ("bananas", "Error: No check of 'toy' matches: leave out -k or --quick to see the names of all checks"),
    ],
)
def test_an_expression_that_selects_nothing_is_refused(expression: str, message: str) -> None:
    completed = _check("toy", "-k", expression)
    assert completed.returncode == 2
    assert completed.stderr.startswith(message)


def test_a_closed_pipe_ends_the_check() -> None:
    command = [*IMAGEGEN, "plugins", "check", "toy"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_a_plugin_without_a_kit_is_checked_by_the_doctor(environ: dict[str, str]) -> None:
    completed = _check("speaks", environ=environ)
    assert completed.stdout == "plugin speaks\n  ok    plugin works\n  1 passed, 0 failed, 0 do not apply\n"


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
