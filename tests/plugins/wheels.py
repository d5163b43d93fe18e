"""Wheels, and an environment to install them into."""

from __future__ import annotations

import base64
import hashlib
import os
import site
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

_LIMIT = 120


def build_wheel(
    folder: Path,
    distribution: str,
    version: str,
    modules: dict[str, str],
    plugin: str,
    entry: str,
    requires: Iterable[str] = (),
) -> None:
    """Write a wheel: https://packaging.python.org/en/latest/specifications/binary-distribution-format.

    Args:
        folder: The wheel's folder.
        distribution: The distribution's name.
        version: The distribution's version.
        modules: The modules' code, by path.
        plugin: The name of the entry point.
        entry: The module of the entry point.
        requires: The requirements.
    """
    stem = f"{distribution.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    metadata = ["Metadata-Version: 2.1", f"Name: {distribution}", f"Version: {version}"]
    metadata += [f"Requires-Dist: {requirement}" for requirement in requires]
    files = modules | {
        f"{info}/METADATA": "\n".join([*metadata, ""]),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[imagegen.plugins]\n{plugin} = {entry}\n",
    }
    record = [f"{path},sha256={_digest(text)},{len(text.encode())}" for path, text in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""])
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)


class Environment:
    """A fresh virtual environment that also sees the packages of the tests' environment, such as torch."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=_LIMIT)
        bin_folder = "Scripts" if os.name == "nt" else "bin"
        self.python = folder / bin_folder / Path(sys.executable).name
        self.site = Path(self.output("-c", "import sysconfig; print(sysconfig.get_path('purelib'))"))
        # Unlike a plain line, addsitedir also reads the .pth files there, such as those of editable installs.
        lines = [f"import site; site.addsitedir({path!r})\n" for path in site.getsitepackages()]
        (self.site / "tests.pth").write_text("".join(lines))

    def install(self, wheels: Path, *distributions: str) -> None:
        """Install distributions from a folder of wheels."""
        pip = [sys.executable, "-m", "pip", "--python", self.python, "--disable-pip-version-check", "install"]
        options = ["--quiet", "--no-deps", "--no-index", "--no-compile", "--find-links", wheels]
        subprocess.run([*pip, *options, *distributions], check=True, timeout=_LIMIT)

    def output(self, *arguments: str) -> str:
        """Return the output of the environment's Python."""
        command = [self.python, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=_LIMIT).stdout.strip()

    def imagegen(self, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
        """Start ``imagegen`` in the environment."""
        command = [self.python, "-c", "from imagegen_core.cli import main; main()", *arguments]
        return subprocess.Popen(
            command,
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
