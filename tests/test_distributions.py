"""Damaged distributions beside imagegen: every command works, and ``plugins doctor`` names them.

Each follows https://packaging.python.org/en/latest/specifications/recording-installed-packages except for one fault.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from imagegen_core.distributions import broken_distributions, entry_points, installed_version
from imagegen_core.importing import explain

SCRIPT = str(Path(sysconfig.get_path("scripts"), "imagegen"))
METADATA = b"Metadata-Version: 2.1\nName: neighbour\nVersion: 1.0\n"

DAMAGED: dict[str, dict[str, bytes]] = {
    "an empty folder": {},
    "an empty METADATA": {"METADATA": b""},
    "no name": {"METADATA": b"Metadata-Version: 2.1\nVersion: 1.0\n"},
    "no version": {"METADATA": b"Metadata-Version: 2.1\nName: neighbour\n"},
    "METADATA in Latin-1": {"METADATA": METADATA + b"Summary: caf\xe9\n"},
    "METADATA in UTF-16": {"METADATA": METADATA.decode().encode("utf-16")},
    "no value": {"METADATA": METADATA, "entry_points.txt": b"[console_scripts]\nfoo\n"},
    "entry points in Latin-1": {"METADATA": METADATA, "entry_points.txt": b"[a]\n\xe9 = b\n"},
}
HARMLESS: dict[str, dict[str, bytes]] = {
    "RECORD in Latin-1": {"METADATA": METADATA, "RECORD": b"caf\xe9.py,,\n"},
    "RECORD of five columns": {"METADATA": METADATA, "RECORD": b"a,b,c,d,e\n"},
    "top_level.txt in Latin-1": {"METADATA": METADATA, "top_level.txt": b"\xe9\n"},
    "entry points without a group": {"METADATA": METADATA, "entry_points.txt": b"garbage\n[a\nb\n"},
}
# The metadata that pydantic, torch, transformers and diffusers read at import.
ASK = """
import importlib.metadata as metadata
from imagegen_core.distributions import leave_out_broken_distributions
leave_out_broken_distributions()
metadata.entry_points(group="a")
metadata.packages_distributions()
print(sorted({dist.metadata["Name"].lower() for dist in metadata.distributions()} & {"neighbour", "pillow"}))
"""


def _install(folder: Path, files: dict[str, bytes], name: str = "neighbour-1.0.dist-info") -> Path:
    info = folder / name
    info.mkdir(parents=True)
    for file, content in files.items():
        (info / file).write_bytes(content)
    return info


def _imagegen(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(folder), **variables}
    done = subprocess.run([SCRIPT, *words], capture_output=True, text=True, check=False, env=environ, timeout=120)
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the import path, for the damaged distributions."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    (tmp_path / "site").mkdir()
    return tmp_path / "site"


@pytest.mark.parametrize("files", DAMAGED.values(), ids=DAMAGED)
def test_an_unreadable_distribution_is_named_and_skipped(folder: Path, files: dict[str, bytes]) -> None:
    info = _install(folder, files)
    (broken,) = broken_distributions()
    assert (broken.name, broken.version, broken.path) == ("neighbour", "1.0", str(info))
    assert broken.mend == f"delete {info}, then pip install --force-reinstall neighbour"
    assert installed_version("neighbour") is None
    assert "sdxl" in [entry.name for entry in entry_points("imagegen.plugins")]
    environ = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True, env=environ)
    assert done.stdout == "['pillow']\n"


@pytest.mark.parametrize("files", HARMLESS.values(), ids=HARMLESS)
def test_a_damaged_file_list_hides_no_distribution(folder: Path, files: dict[str, bytes]) -> None:
    _install(folder, files)
    assert broken_distributions() == []
    environ = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True, env=environ)
    assert done.stdout == "['neighbour', 'pillow']\n"


def test_quick_commands_work_and_the_doctor_names_each_distribution(folder: Path) -> None:
    for number, files in enumerate(DAMAGED.values()):
        _install(folder, files, f"neighbour{number}-1.0.dist-info")
    _install(folder, {"METADATA": METADATA}, "~eighbour-1.0.dist-info")
    duplicates = [str(_install(folder, {"METADATA": METADATA}, f"neighbour-{number}.0.dist-info")) for number in (1, 2)]
    (folder / "linked.egg-link").write_bytes(b"/nowhere\n.")
    (folder / "file-1.0.egg-info").write_bytes(b"\xff")
    for words in (["--version"], ["--help"], ["plugins", "list"], ["config", "show"], ["models", "list"]):
        assert _imagegen(folder, *words).returncode == 0
    assert _imagegen(folder, "no-such-command").returncode == 2
    done = _imagegen(folder, "plugins", "doctor", "--json", IMAGEGEN_PLUGINS="demo")
    assert done.returncode == 0
    rows = {row["distribution"]: row for row in json.loads(done.stdout) if "path" in row}
    assert set(rows) == {*(f"neighbour{number}" for number in range(len(DAMAGED))), "~eighbour", "file", "neighbour"}
    assert sorted(rows["neighbour"]["path"].split(", ")) == duplicates
    assert rows["~eighbour"]["mend"] == f"delete {folder}/~eighbour-1.0.dist-info"


def test_pictures_are_drawn_beside_a_damaged_distribution(folder: Path, sdxl_checkpoint: Path) -> None:
    _install(folder, DAMAGED["METADATA in Latin-1"])
    words = ["generate", "a lake", "--model", str(sdxl_checkpoint), "--steps", "1", "-o", str(folder / "out.png")]
    assert _imagegen(folder, *words).returncode == 0


def test_a_plugin_without_metadata_is_broken(folder: Path) -> None:
    info = _install(folder, {"entry_points.txt": b"[imagegen.plugins]\nclouds = clouds\n[other]\na = b\n"})
    done = _imagegen(folder, "plugins", "doctor", IMAGEGEN_PLUGINS="demo,clouds")
    assert done.returncode == 1
    assert "clouds (neighbour 1.0): broken\n  cause: it has no METADATA" in done.stdout
    assert f"mend: delete {info}" in done.stdout


@pytest.mark.parametrize("value", [b"", b"1 2 : 3 ["])
def test_a_plugin_with_an_invalid_entry_point_is_broken(folder: Path, value: bytes) -> None:
    _install(folder, {"METADATA": METADATA, "entry_points.txt": b"[imagegen.plugins]\nclouds = " + value + b"\n"})
    done = _imagegen(folder, "plugins", "list")
    assert done.returncode == 0
    assert "clouds\tneighbour 1.0\tbroken" in done.stdout


def test_a_library_with_a_broken_installation_is_named(folder: Path) -> None:
    """The error is transformers' for a requirement without metadata."""
    info = _install(folder, {}, "safetensors-1.0.dist-info")
    error = PackageNotFoundError("The 'safetensors>=0.4.3' distribution was not found and is required by this program")
    failure = explain(error, "diffusers:StableDiffusionXLPipeline")
    assert "needs safetensors, whose installation is broken: it has no METADATA" in failure.cause
    assert failure.mend == f"delete {info}, then pip install --force-reinstall safetensors"
