"""Contract versions: each plugin declares its version, and plugins for another contract are refused before use."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import imagegen_core
from imagegen_core import Registry
from imagegen_core.plugins import contract
from imagegen_core.plugins.plugin import Plugin
from tests.plugins.installed import Installer


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the contract's version to 3.4, with support for 2.1 and later."""
    monkeypatch.setattr(contract, "CONTRACT_VERSION", "3.4")
    monkeypatch.setattr(contract, "OLDEST_SUPPORTED", "2.1")


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize(
    ("declared", "mend"),
    [
        ("3.4", None),
        ("3.0", None),
        ("2.10", None),
        ("2.1", None),
        (None, None),
        ("3.5", "pip install --upgrade imagegen-core"),
        ("3.10", "pip install --upgrade imagegen-core"),
        ("4.0", "pip install --upgrade imagegen-core"),
        ("2.0", "pip install --upgrade imagegen-mine"),
        ("1.9", "pip install --upgrade imagegen-mine"),
        ("3", "update imagegen-mine, or report it to its authors"),
        ("3.4.1", "update imagegen-mine, or report it to its authors"),
        ("v3.4", "update imagegen-mine, or report it to its authors"),
        ((3, 4), "update imagegen-mine, or report it to its authors"),
    ],
)
def test_unsupported_contracts_are_objected_to(declared: object, mend: str | None) -> None:
    objection = contract.objection(declared, Plugin("mine", "imagegen-mine", "1.0"))
    assert (objection and objection[1]) == mend


def test_the_contract_version_is_public() -> None:
    assert imagegen_core.CONTRACT_VERSION == contract.CONTRACT_VERSION == "1.0"


def test_our_own_plugins_declare_the_contract() -> None:
    for package in ("imagegen_sdxl", "imagegen_sd15", "imagegen_demo"):
        assert contract.declared_in_source(f"{package}.plugin") == "1.0"


def test_a_declaration_is_read_without_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "unimportable"
    package.mkdir()
    (package / "__init__.py").write_text("1 / 0")
    (package / "plugin.py").write_text('"""A plugin."""\nrequires_contract = "9.1"\nimport no_such_module')
    monkeypatch.syspath_prepend(str(tmp_path))
    assert contract.declared_in_source("unimportable.plugin") == "9.1"
    assert contract.declared_in_source("unimportable.nowhere") is None
    assert contract.declared_in_source("sys") is None
    assert "unimportable" not in sys.modules


def test_hooks_of_a_plugin_for_another_contract_are_not_called(install: Installer) -> None:
    install.add(
        "mine",
        """
import sys
from imagegen_core import hookimpl
requires_contract = "9.1"

@hookimpl
def imagegen_backends():
    sys.modules["mine_was_asked"] = sys
    return []
""",
    )
    assert Registry.discover({}).plugins[0].status == "broken"
    assert "mine_was_asked" not in sys.modules
