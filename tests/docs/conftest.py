"""What the documents' tests share: the guides' quotes, plugins for one test, and files that a header alone makes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.quotes import is_quoted, quotes
from tests.models.files import save_header
from tests.models.test_addons import LORAS
from tests.models.test_single_files import RELEASED
from tests.plugins.installed import Installer

Said = Callable[..., None]


@pytest.fixture
def said(tmp_path: Path) -> Said:
    """Checks that messages are those that a guide quotes under a heading, where the test's folder is the root."""

    def check(heading: str, *messages: object) -> None:
        plain = [str(message).replace(str(tmp_path), "") for message in messages]
        wanted = quotes()[heading]
        assert len(plain) == len(wanted)
        for message, quote in zip(plain, wanted, strict=True):
            assert is_quoted(message, quote), f"{message!r} is not {quote!r}"

    return check


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installer:
    """Installs plugins for one test, which sees no others."""
    return Installer(tmp_path / "site-packages", monkeypatch)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A model root with an SDXL file and an SD1.5 file, and a LoRA for SD1.5, as far as their headers tell."""
    root = tmp_path / "models"
    root.mkdir()
    save_header(root / "my-sdxl.safetensors", RELEASED["SDXL"][0])
    save_header(root / "my-sd15", RELEASED["SD1.5"][0])
    save_header(root / "papercut.safetensors", LORAS["kohya SD1.5"][0])
    return root
