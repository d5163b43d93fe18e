"""Fixtures of the documents' tests: a check of quotes, plugins for one test, and checkpoints of headers alone."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.docs.fences import ROOT
from tests.docs.quotes import is_quoted, quotes
from tests.models.files import save_header
from tests.models.test_addons import LORAS
from tests.models.test_single_files import RELEASED
from tests.plugins.installed import Installer

AssertQuoted = Callable[..., None]


@pytest.fixture
def assert_quoted(tmp_path: Path) -> AssertQuoted:
    """A function that compares messages with a guide's quotes under a heading, where the test's folder is the root."""

    def check(heading: str, *messages: object) -> None:
        relative = [str(message).replace(str(tmp_path), "") for message in messages]
        expected = quotes()[heading]
        assert len(relative) == len(expected)
        for message, quote in zip(relative, expected, strict=True):
            assert is_quoted(message, quote), f"{message!r} is not {quote!r}"

    return check


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installer:
    """An installer of plugins for one test, which sees no others."""
    return Installer(tmp_path / "site-packages", monkeypatch)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A model root with an SDXL file, an SD1.5 file and a LoRA for SD1.5; each file is a header alone."""
    root = tmp_path / "models"
    root.mkdir()
    save_header(root / "my-sdxl.safetensors", RELEASED["SDXL"][0])
    save_header(root / "my-sd15", RELEASED["SD1.5"][0])
    save_header(root / "papercut.safetensors", LORAS["kohya SD1.5"][0])
    return root


@pytest.fixture
def import_script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A function that imports a module of `docs_build` by its name, as these modules do."""
    monkeypatch.syspath_prepend(ROOT / "docs_build")
    return import_module
