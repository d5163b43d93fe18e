"""The requirements of distributions, compared with what is installed; pip's own check is the oracle."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from imagegen_core.plugins.requirements import unmet


def _install(folder: Path, name: str, version: str, *lines: str) -> None:
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    header = ("Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}", *lines)
    (info / "METADATA").write_text("\n".join([*header, ""]))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path, for distributions without code."""
    folder = tmp_path / "site"
    _install(folder, "paint", "2.0", "Provides-Extra: oil", 'Requires-Dist: linen>=3; extra == "oil"')
    _install(folder, "linen", "2.5")
    monkeypatch.syspath_prepend(str(folder))
    return folder


def _check(folder: Path) -> str:
    """Return the complaints of ``pip check`` about the distributions in a folder."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "check"]
    return subprocess.run(
        command, env={"PYTHONPATH": str(folder)}, capture_output=True, text=True, check=False
    ).stdout.replace("\n", " ")


@pytest.mark.parametrize(
    ("requirement", "sentence"),
    [
        ("paint", None),
        ("Paint >=1,<3", None),
        ("paint>=3", "it needs paint>=3, and paint 2.0 is installed: pip install 'paint>=3'"),
        ("paint (>=3)", "it needs paint>=3, and paint 2.0 is installed: pip install 'paint>=3'"),
        ("brush~=1.0", "it needs brush~=1.0, which is not installed: pip install 'brush~=1.0'"),
        ('brush; python_version < "3"', None),
    ],
)
def test_an_unmet_requirement_is_named_as_by_pip(site: Path, requirement: str, sentence: str | None) -> None:
    _install(site, "imagegen-mine", "1.0", f"Requires-Dist: {requirement}")
    assert list(unmet("imagegen-mine")) == ([sentence] if sentence else [])
    assert ("imagegen-mine 1.0" in _check(site)) == bool(sentence)


def test_the_requirements_of_an_extra_count(site: Path) -> None:
    _install(site, "imagegen-mine", "1.0", "Requires-Dist: paint[oil]")
    assert list(unmet("imagegen-mine")) == ["it needs linen>=3, and linen 2.5 is installed: pip install 'linen>=3'"]


def test_extras_that_need_each_other_end(site: Path) -> None:
    lines = [f'Requires-Dist: imagegen-mine[{other}]; extra == "{extra}"' for extra, other in ("ab", "ba")]
    _install(site, "imagegen-mine", "1.0", "Provides-Extra: a", "Provides-Extra: b", *lines)
    _install(site, "imagegen-yours", "1.0", "Requires-Dist: imagegen-mine[a]")
    assert list(unmet("imagegen-yours")) == []


def test_a_requirement_in_a_wrong_form_is_named(site: Path) -> None:
    _install(site, "imagegen-mine", "1.0", "Requires-Dist: paint is great", "Requires-Dist: brush")
    first, second = unmet("imagegen-mine")
    assert first.startswith("its requirement 'paint is great' has the wrong form (")
    assert second == "it needs brush, which is not installed: pip install 'brush'"


def test_an_unknown_distribution_has_no_requirements() -> None:
    assert list(unmet("no-such-distribution")) == []
