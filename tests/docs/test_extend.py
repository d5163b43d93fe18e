"""The page about extending imagegen shows every hook and every kind of project."""

from __future__ import annotations

from imagegen_core import worker
from imagegen_core.plugins import hookspecs
from imagegen_core.scaffold.kinds import Kind
from tests.docs.fences import ROOT, fences


def test_every_hook_has_an_example() -> None:
    examples = "".join(fence.text for fence in fences("docs/extend.md") if fence.title)
    hooks = [name for name in vars(hookspecs) if name.startswith("imagegen_")]
    assert [hook for hook in hooks if f"@hookimpl\ndef {hook}(" not in examples] == []


def test_every_optional_protocol_of_workers_is_explained() -> None:
    page = (ROOT / "docs/extend.md").read_text(encoding="utf-8")
    protocols = [name for name, value in vars(worker).items() if getattr(value, "_is_runtime_protocol", False)]
    assert [name for name in protocols if f"| `{name}` |" not in page and name != "Worker"] == []


def test_every_kind_of_project_is_named() -> None:
    page = (ROOT / "docs/extend.md").read_text(encoding="utf-8")
    assert [kind for kind in Kind if f"`--kind {kind}`" not in page] == []
