"""The page of signatures is current and complete."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

import imagegen_core
import imagegen_core.diffusion
import imagegen_core.testing
from imagegen_core.plugins import hookspecs
from tests.docs.fences import fences


def test_the_page_is_current(import_script: Callable[[str], Any]) -> None:
    signatures = import_script("signatures")
    committed = signatures.PAGE.read_text(encoding="utf-8")
    assert committed == signatures.page(), "write it again: python docs_build/signatures.py"


def test_every_public_name_and_hook_has_a_signature(import_script: Callable[[str], Any]) -> None:
    page = import_script("signatures").page()
    modules = (imagegen_core, imagegen_core.diffusion, imagegen_core.testing)
    names = [f"{module.__name__}.{name}" for module in modules for name in module.__all__]
    names += [name for name in vars(hookspecs) if name.startswith("imagegen_")]
    assert [name for name in names if f"### {name}\n" not in page] == []


def test_signatures_are_valid_python() -> None:
    for fence in fences("docs/reference/signatures.md"):
        ast.parse(fence.text)


def test_a_signature_has_its_defaults_and_its_docstring(import_script: Callable[[str], Any]) -> None:
    section = import_script("signatures").page().partition("### imagegen_core.Backend\n")[2].partition("### ")[0]
    assert "    without: tuple[str, ...] = ()\n" in section
    assert "    def resolve(self, request: object, native_size: str | None = None) -> ResolvedRequest:\n" in section
    assert '"""Check a request with `ResolvedRequest.of`, and refuse unsupported fields.' in section
    assert "_GO_WITH" not in section
