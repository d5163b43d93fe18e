"""A run goes on after the death of a process, and ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_DIES_ONCE = """
import os
from pathlib import Path

def test_dies_once():
    mark = Path(__file__).with_name("died")
    if not mark.exists():
        mark.touch()
        os._exit(1)

def test_second(): pass
def test_third(): pass
def test_fourth(): pass
"""


def test_a_run_ends_after_the_death_of_a_process(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"test_{number:02}.py").write_text("def test_first(): pass\ndef test_second(): pass\n")
    (tmp_path / "test_30.py").write_text(_DIES_ONCE)
    root = Path(__file__).parent.parent
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.scheduling", "--numprocesses=2", "--rootdir", tmp_path, tmp_path],
        cwd=root,
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert "1 failed, 82 passed" in run.stdout
