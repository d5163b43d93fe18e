"""A new plugin's project works as it is written: installed into an environment of its own, it passes the kit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagegen_core.cli import main
from imagegen_core.scaffold.kinds import Kind
from tests.plugins.installed import Installer

_RULES = Path(__file__).parents[2] / "pyproject.toml"
_SHORTEST, _LONGEST = "a", "abcdefghij-klmnopqrst-uvwxyz12"
_ITSELF = {"IMAGEGEN_PLUGINS": "my-own"}
_SOME_CHECKS_ARE_NOT_ITS_OWN = (Kind.BACKEND, Kind.UPSCALER)  # those of checkpoints, previews, shared threads


def _new(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["plugins", "new", *arguments])
    return int(ended.value.code or 0)


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _run(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


class _Environment:
    """A virtual environment of a project's own, which also sees what is installed here."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, symlinks=True)
        self._python = str(folder / "bin" / "python")
        site_packages = sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)})
        # As a site folder, so that what is installed here in editable mode is found, too.
        here = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
        Path(site_packages, "here.pth").write_text(here, encoding="utf-8")

    def install(self, project: Path) -> None:
        offline = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index")
        _run(self._python, "-m", "pip", "install", *offline, "--editable", str(project), cwd=project)

    def imagegen(self, *arguments: str, cwd: Path) -> list[str]:
        program = "from imagegen_core.cli import main; main()"
        return _run(self._python, "-c", program, *arguments, cwd=cwd, **_ITSELF).splitlines()

    def pytest(self, cwd: Path) -> str:
        return _run(self._python, "-m", "pytest", "-q", "-p", "no:schemathesis", cwd=cwd)  # a slow start, unneeded


@pytest.fixture(scope="session")
def mypy_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Shared by all projects, as most of what mypy reads is."""
    folder = tmp_path_factory.mktemp("mypy")
    yield str(folder)
    shutil.rmtree(folder)


@pytest.mark.parametrize("kind", Kind)
def test_a_new_project_is_installed_and_passes_the_kit(kind: Kind, tmp_path: Path) -> None:
    assert _new("my-own", "--kind", kind) == 0
    project = tmp_path / "imagegen-my-own"
    environment = _Environment(tmp_path / "environment")
    environment.install(project)
    listed = environment.imagegen("plugins", "list", cwd=project)
    assert f"my-own\timagegen-my-own 0.1.0\tok\t{kind} my-own" in listed
    found = environment.imagegen("plugins", "doctor", cwd=project)
    assert "my-own (imagegen-my-own 0.1.0): ok" in found
    assert not [line for line in found if "remark:" in line]
    kit = environment.pytest(cwd=project)
    assert "passed" in kit
    assert "skipped" not in kit or kind in _SOME_CHECKS_ARE_NOT_ITS_OWN


@pytest.mark.parametrize("kind", Kind)
def test_a_new_project_has_types(kind: Kind, tmp_path: Path, mypy_cache: str) -> None:
    _new("my-own", "--kind", kind)
    _run(sys.executable, "-m", "mypy", "--cache-dir", mypy_cache, cwd=tmp_path / "imagegen-my-own")


@pytest.mark.parametrize("name", [_SHORTEST, "my-own", _LONGEST])
@pytest.mark.parametrize("kind", Kind)
def test_a_new_project_is_well_formatted_whatever_its_name(kind: Kind, name: str, tmp_path: Path) -> None:
    _new(name, "--kind", kind)
    for rules in ("pyproject.toml", str(_RULES)):
        ruff = (sys.executable, "-m", "ruff")
        _run(*ruff, "check", "--no-cache", "--config", rules, ".", cwd=tmp_path / f"imagegen-{name}")
        _run(*ruff, "format", "--check", "--no-cache", "--config", rules, ".", cwd=tmp_path / f"imagegen-{name}")


def test_what_was_written_and_what_comes_next_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _new("sharp", "--kind", "upscaler", "-o", "my work") == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == sorted(f"my work/{name}" for name in _files(tmp_path / "my work"))
    assert said.err == (
        "The upscaler 'sharp' is written. Next:\n"
        "  cd 'my work' && pip install -e '.[testing]'\n"
        "  imagegen plugins list\n"
        "  pytest\n"
    )


def test_an_empty_folder_serves(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert _new("sharp", "--kind", "upscaler", "-o", "empty") == 0
    assert "imagegen_sharp/upscaler.py" in _files(tmp_path / "empty")


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "imagegen-sharp").mkdir()
    (tmp_path / "imagegen-sharp" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for arguments in ((), ("-o", "file"), ("-o", "file/below")):
        assert _new("sharp", "--kind", "upscaler", *arguments) == 2
        assert capsys.readouterr().err.startswith("Error: Cannot write to ")
    assert _files(tmp_path) == {"imagegen-sharp/notes.txt", "file"}


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("My-Clouds", "Invalid name 'My-Clouds': expected a small letter, then "),
        ("my_clouds", "Invalid name 'my_clouds': expected"),
        ("../clouds", "Invalid name '../clouds': expected"),
        ("2x", "Invalid name '2x': expected"),
        ("wölkchen", "Invalid name 'wölkchen': expected"),
        ("my--clouds", "Invalid name 'my--clouds': expected"),
        (f"{_LONGEST}3", "Invalid name 'abc.*30 at most"),
        ("class", "Invalid name 'class': it is a word of Python's own; take another, such as my-class"),
        ("none", "Invalid name 'none': it is a word of Python's own"),
        ("core", "A package imagegen_core is installed already: take another name"),
    ],
)
def test_a_name_that_cannot_be_is_refused(
    name: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _new(name, "--kind", "backend") == 2
    assert re.search(sentence, capsys.readouterr().err)
    assert not _files(tmp_path)


@pytest.mark.parametrize(
    ("kind", "name", "sentence"),
    [
        ("upscaler", "lanczos", "taken by imagegen's own upscaler"),
        ("store", "memory", "taken by imagegen's own store"),
        ("store", "disabled", "STORAGE_PROVIDER=disabled turns storage off"),
        ("sampler", "euler-a", "taken by imagegen's own sampler"),
        ("sampler", "checkpoint", "it stands for the checkpoint's own scheduler"),
        ("backend", "painter", "taken by the installed plugin imagegen-painter: take another name, or pip uninstall"),
        ("style", "painter", "taken by the installed plugin imagegen-painter"),
    ],
)
def test_a_name_that_is_taken_is_refused(
    kind: str, name: str, sentence: str, install: Installer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install.backend("painter")
    assert _new(name, "--kind", kind) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / f"imagegen-{name}").exists()


def test_what_another_kind_is_called_is_free(install: Installer, tmp_path: Path) -> None:
    assert _new("memory", "--kind", "style") == 0
