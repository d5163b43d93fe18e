"""Installed distributions for tests: a module and its metadata, in a folder on the path."""

from __future__ import annotations

import os
import sys
from importlib.metadata import EntryPoint, distributions
from pathlib import Path

import pytest

from imagegen_core.plugins import discovery


class Installer:
    """Install plugins for one test, and hide the other installed plugins."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder.mkdir()
        self.folder = folder
        self._monkeypatch = monkeypatch
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)  # for the doctor's processes
        monkeypatch.setattr(discovery, "entry_points", self._entry_points)

    def add(self, name: str, code: str, *, distribution: str | None = None, version: str = "1.0") -> None:
        """Install `code` as the module of the entry point `name`."""
        distribution = distribution or f"imagegen-{name}"
        module = f"plugin_{distribution.replace('-', '_')}"
        (self.folder / f"{module}.py").write_text(code)
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[imagegen.plugins]\n{name} = {module}\n")
        self._monkeypatch.delitem(sys.modules, module, raising=False)

    def _entry_points(self, *, group: str) -> list[EntryPoint]:
        entries = [entry for dist in distributions(path=[str(self.folder)]) for entry in dist.entry_points]
        return [entry for entry in entries if entry.group == group]

    def backend(
        self, name: str, *, architectures: tuple[str, ...] = (), worker: str = "nowhere:Worker", more: str = ""
    ) -> None:
        """Install a plugin that offers one backend of the same name; see `backend_code`."""
        self.add(name, backend_code(name, architectures=architectures, worker=worker, more=more))


_FAMILIES = "from imagegen_{name}.plugin import imagegen_families"


def backend_code(
    name: str, *, architectures: tuple[str, ...] = (), worker: str = "nowhere:Worker", more: str = ""
) -> str:
    """Return the code of a plugin module with one backend.

    Args:
        name: The name of the backend. With ``sd15`` or ``sdxl`` and architectures, it declares their families, too.
        architectures: Its families.
        worker: Its worker.
        more: Further arguments of `Backend`, as code.
    """
    families = _FAMILIES.format(name=name) if architectures and name in ("sd15", "sdxl") else ""
    return f"""
from imagegen_core import Backend, hookimpl
{families}

@hookimpl
def imagegen_backends():
    return [Backend(name={name!r}, summary="a test's", worker={worker!r}, default_size="64x64",
                    architectures={architectures!r}, {more})]
"""
