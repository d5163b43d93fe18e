"""The files and folders that the checklists name exist."""

from __future__ import annotations

import re

import pytest

from tests.docs.fences import ROOT

_PATH = re.compile(r"`((?:src|tests|docs|docs_build|benchmarks|examples)/[\w./-]*)`")


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "RELEASING.md", "docs/checkpoints.md", "docs/performance.md"])
def test_a_page_names_paths_that_exist(page: str) -> None:
    paths = set(_PATH.findall((ROOT / page).read_text(encoding="utf-8")))
    assert {path for path in paths if not _exists(path)} == set()


def _exists(path: str) -> bool:
    """Tell whether the path exists, or its last part anywhere below its first folder."""
    top, _, rest = path.strip("/").partition("/")
    return (ROOT / path).exists() or any((ROOT / top).rglob(rest.rpartition("/")[2]))
