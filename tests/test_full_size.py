"""The full-size benchmark, with tiny checkpoints: all of its parts and installed programs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
PARTS = {
    "pictures": {"imagegen", "diffusers, bf16", "diffusers' defaults, fp32"},
    "loading": {"imagegen", "from_single_file", "from_pretrained"},
    "clients": {"imagegen", "diffusers, bf16"},
    "joining": {"imagegen", "diffusers, bf16"},
    "styles": {"imagegen"},
}


def _run(cache: Path, *arguments: str) -> str:
    command = [sys.executable, str(BENCHMARKS / "full_size.py"), "--results", str(cache / "results.jsonl")]
    command += ["--tiny", "--models", "sd15", "--cache", str(cache), "--rounds", "1", *arguments]
    printed = cache / "printed.txt"  # no pipe: the server of forked processes may end a moment later
    with printed.open("w") as file:
        subprocess.run(command, check=True, stdout=file)
    return printed.read_text()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("full_size")


@pytest.fixture(scope="module")
def printed(cache: Path) -> str:
    return _run(cache, "--steps", "2", "--clients", "2", "--share", "0.1")


def _findings(cache: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (cache / "results.jsonl").read_text().splitlines()]


def test_every_part_measures_every_installed_program(cache: Path, printed: str) -> None:
    findings = _findings(cache)
    for part, programs in PARTS.items():
        assert programs <= {one["program"] for one in findings if one["part"] == part and one["values"]}
    reasons = {one["left_out"] for one in findings if one["left_out"]}
    assert all(reason.endswith(("is not installed", "takes no tiny checkpoint")) for reason in reasons), reasons


def test_a_picture_has_its_parts_and_its_memory(cache: Path, printed: str) -> None:
    pictures = [one for one in _findings(cache) if one["part"] == "pictures" and one["program"] == "imagegen"]
    assert {one["case"] for one in pictures} == {"64 px, 2 steps", "64 px, 2 steps, guidance 7.5"}
    for one in pictures:
        values = one["values"]
        parts = values["text"] + 2 * values["step"] + values["VAE"] + values["PNG"]
        assert parts == pytest.approx(values["picture"])
        assert values["total memory"] > values["anonymous memory"] > 10**7


def test_the_tables_replace_those_of_a_document(cache: Path, printed: str) -> None:
    document = cache / "document.md"
    document.write_text("before\n<!-- full_size.py -->\nearlier tables\n<!-- end of full_size.py -->\nafter\n")
    _run(cache, "--tables", "--write", str(document))
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "earlier tables" not in text
    assert "| tiny sd15, 64 px, 2 steps | imagegen | " in text
    assert "**Loading**" in printed


def test_a_budget_without_time_says_what_is_missing(cache: Path, printed: str) -> None:
    before = len(_findings(cache))
    _run(cache, "--parts", "pictures", "--steps", "2", "--guidance", "1", "--minutes", "0", "--programs", "imagegen")
    (finding,) = _findings(cache)[before:]
    assert finding["left_out"] == "the time is up"


def test_a_small_disk_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import full_size_checkpoints

    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3 * 10**9))
    with pytest.raises(SystemExit, match=r"has 3\.0 GB free, and a random sdxl needs 15\.0 GB: free some, or name"):
        full_size_checkpoints.checkpoint("sdxl", tmp_path)


def test_a_program_that_memory_does_not_take_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from full_size_processes import Processes
    from sides import SideError

    with pytest.raises(SideError, match=r"it needs about 100000\d GB of memory, and \d+ GB are free"):
        Processes("cpu", minutes=1).ask("large", (dict, ()), 1e15, "a picture")
