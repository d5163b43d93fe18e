"""New plugin projects: installed unchanged into their own environment, they pass the conformance kit."""

from __future__ import annotations

import email
import email.policy
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from imagegen_core.cli import main
from imagegen_core.scaffold.kinds import Kind
from tests.plugins.installed import Installer

_RULES = Path(__file__).parents[2] / "pyproject.toml"
_SHORTEST, _LONGEST = "a", "abcdefghij-klmnopqrst-uvwxyz12"
_ONLY_THE_NEW_PLUGIN = {"IMAGEGEN_PLUGINS": "my-own"}
_KINDS_THAT_SKIP_CHECKS = (Kind.BACKEND, Kind.FAMILY, Kind.UPSCALER)  # checks of checkpoints, previews, shared threads
_OFFERS = {Kind.ROUTE: "", Kind.PROCESSOR: "parameter my_own_border", Kind.EXTENSION: "extension my-own"}


def _new(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_info:
        main(["plugins", "new", *arguments])
    return int(exit_info.value.code or 0)


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _run(*command: str, cwd: Path, **environment: str) -> str:
    completed = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, f"{command}: {completed.stdout}{completed.stderr}"
    return completed.stdout


class _Environment:
    """A project's own virtual environment, which also sees the packages of this environment."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, symlinks=True)
        self._python = str(folder / "bin" / "python")
        site_packages = sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)})
        # A site folder, because it also finds packages in editable mode.
        line = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
        Path(site_packages, "here.pth").write_text(line, encoding="utf-8")

    def install(self, project: Path) -> None:
        offline = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index")
        _run(self._python, "-m", "pip", "install", *offline, "--editable", str(project), cwd=project)

    def imagegen(self, *arguments: str, cwd: Path) -> list[str]:
        program = "from imagegen_core.cli import main; main()"
        return _run(self._python, "-c", program, *arguments, cwd=cwd, **_ONLY_THE_NEW_PLUGIN).splitlines()

    def pytest(self, cwd: Path) -> str:
        return _run(self._python, "-m", "pytest", "-q", "-p", "no:schemathesis", cwd=cwd)  # unneeded, and slow to start


@pytest.fixture(scope="session")
def mypy_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cache for all projects, because mypy reads mostly the same files for each."""
    folder = tmp_path_factory.mktemp("mypy")
    yield str(folder)
    shutil.rmtree(folder)


@pytest.mark.parametrize("kind", Kind)
def test_a_new_project_is_installed_and_passes_the_kit(kind: Kind, tmp_path: Path) -> None:
    assert _new("my-own", "--kind", kind) == 0
    project = tmp_path / "imagegen-my-own"
    environment = _Environment(tmp_path / "environment")
    environment.install(project)
    listing = environment.imagegen("plugins", "list", cwd=project)
    (row,) = [line for line in listing if line.startswith("my-own\timagegen-my-own 0.1.0\tok\t")]
    assert _OFFERS.get(kind, f"{kind} my-own") in row
    diagnosis = environment.imagegen("plugins", "doctor", cwd=project)
    assert "my-own (imagegen-my-own 0.1.0): ok" in diagnosis
    assert not [line for line in diagnosis if "remark:" in line]
    report = environment.pytest(cwd=project)
    assert "passed" in report
    assert "skipped" not in report or kind in _KINDS_THAT_SKIP_CHECKS


@pytest.mark.parametrize("kind", Kind)
def test_a_new_project_passes_mypy(kind: Kind, tmp_path: Path, mypy_cache: str) -> None:
    _new("my-own", "--kind", kind)
    _run(sys.executable, "-m", "mypy", "--cache-dir", mypy_cache, cwd=tmp_path / "imagegen-my-own")


def test_new_projects_pass_pyright(tmp_path: Path) -> None:
    for kind in Kind:
        _new(f"my-{kind}", "--kind", kind)
    environments = []
    for project in [f"imagegen-my-{kind}" for kind in Kind]:
        rules = tomllib.loads((tmp_path / project / "pyproject.toml").read_text())["tool"]["pyright"]
        assert rules.pop("include") == [project.replace("-", "_"), "tests"]
        environments.append({"root": project, "extraPaths": [f"{project}/tests"], **rules})
    (tmp_path / "pyrightconfig.json").write_text(
        json.dumps({"include": ["imagegen-*"], "executionEnvironments": environments})
    )
    _run(sys.executable, "-m", "pyright", "--pythonpath", sys.executable, cwd=tmp_path)  # once, as it starts slowly


@pytest.mark.parametrize("name", [_SHORTEST, "my-own", _LONGEST])
@pytest.mark.parametrize("kind", Kind)
def test_a_new_project_of_any_name_passes_ruff(kind: Kind, name: str, tmp_path: Path) -> None:
    _new(name, "--kind", kind)
    for rules in ("pyproject.toml", str(_RULES)):
        ruff = (sys.executable, "-m", "ruff")
        _run(*ruff, "check", "--no-cache", "--config", rules, ".", cwd=tmp_path / f"imagegen-{name}")
        _run(*ruff, "format", "--check", "--no-cache", "--config", rules, ".", cwd=tmp_path / f"imagegen-{name}")


def test_a_new_project_is_ready_to_be_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gitconfig").write_text('[user]\n\tname = "Zoë \\"Z\\" O"\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    _new("my-own", "--kind", "upscaler")
    project = tmp_path / "imagegen-my-own"
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", cwd=project)
    (wheel,) = (project / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        info = "imagegen_my_own-0.1.0.dist-info"
        metadata = email.message_from_bytes(files.read(f"{info}/METADATA"), policy=email.policy.default)
        assert 'Zoë "Z" O' in files.read(f"{info}/licenses/LICENSE").decode()
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Author"] == 'Zoë "Z" O'
    urls = metadata.get_all("Project-URL", [])
    assert [url.partition(",")[0] for url in urls] == ["Source", "Changelog", "Issues"]
    assert "imagegen-core>=0.1" in metadata.get_all("Requires-Dist", [])
    workflow = yaml.safe_load((project / ".github/workflows/publish.yml").read_text())
    assert workflow["jobs"]["publish"]["permissions"] == {"id-token": "write"}
    assert "## 0.1.0, unreleased" in (project / "CHANGELOG.md").read_text()


def test_a_deprecated_name_fails_a_projects_tests(tmp_path: Path) -> None:
    _new("my-own", "--kind", "upscaler")
    project = tmp_path / "imagegen-my-own"
    (project / "tests" / "test_old.py").write_text(
        "import warnings\ndef test_old():\n    warnings.warn('old', DeprecationWarning)\n"
    )
    command = [sys.executable, "-m", "pytest", "tests/test_old.py"]
    assert subprocess.run(command, cwd=project, capture_output=True, check=False).returncode == 1


def test_the_command_prints_the_files_and_the_next_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _new("sharp", "--kind", "upscaler", "-o", "my work") == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == sorted(f"my work/{name}" for name in _files(tmp_path / "my work"))
    assert printed.err == (
        "The upscaler 'sharp' is written. Next:\n"
        "  cd 'my work' && pip install -e '.[testing]'\n"
        "  imagegen plugins list\n"
        "  pytest\n"
    )


def test_an_empty_folder_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert _new("sharp", "--kind", "upscaler", "-o", "empty") == 0
    assert "imagegen_sharp/upscaler.py" in _files(tmp_path / "empty")


def test_existing_files_are_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "imagegen-sharp").mkdir()
    (tmp_path / "imagegen-sharp" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for arguments in ((), ("-o", "file"), ("-o", "file/below")):
        assert _new("sharp", "--kind", "upscaler", *arguments) == 2
        assert capsys.readouterr().err.startswith("Error: Cannot write to ")
    assert _files(tmp_path) == {"imagegen-sharp/notes.txt", "file"}


@pytest.mark.parametrize(
    ("name", "message"),
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
def test_an_invalid_name_is_refused(
    name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _new(name, "--kind", "backend") == 2
    assert re.search(message, capsys.readouterr().err)
    assert not _files(tmp_path)


@pytest.mark.parametrize(
    ("kind", "name", "message"),
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
def test_a_taken_name_is_refused(
    kind: str, name: str, message: str, install: Installer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install.backend("painter")
    assert _new(name, "--kind", kind) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / f"imagegen-{name}").exists()


def test_a_name_of_another_kind_is_accepted(install: Installer, tmp_path: Path) -> None:
    assert _new("memory", "--kind", "style") == 0
