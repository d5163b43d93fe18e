"""The findings of the full-size benchmark: printed and appended to a JSON-lines file as soon as they are known."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "diffusers", "transformers", "openvino", "cyllama", "imagegen-core")


@dataclass(frozen=True)
class Finding:
    """One measurement of a program, or the reason why it is missing.

    Attributes:
        model: The checkpoint's family, such as ``sd15``; with ``tiny `` before it for a checkpoint without meaning.
        part: The part of the benchmark.
        case: The picture or the load.
        program: The program.
        values: Seconds and bytes by name.
        left_out: The reason, in words.
        about: The machine, the libraries and the time.
    """

    model: str
    part: str
    case: str
    program: str
    values: Mapping[str, float] = field(default_factory=dict)
    left_out: str | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        said = f"left out: {self.left_out}" if self.left_out else ", ".join(_in_words(self.values))
        return f"{self.model} | {self.part} | {self.case} | {self.program}: {said}"


class Results:
    """Collects findings."""

    def __init__(self, path: Path, device: str) -> None:
        """Append to a file; `device` is the measured device."""
        self._path = path
        self._about = {**machine(device), **_versions()}

    def add(self, finding: Finding) -> None:
        """Print and keep a finding."""
        print(finding, flush=True)
        kept = asdict(finding) | {"about": {**self._about, "at": datetime.now(UTC).isoformat(timespec="seconds")}}
        with self._path.open("a") as file:
            file.write(json.dumps(kept) + "\n")


def read(path: Path) -> list[Finding]:
    """Return a file's findings."""
    return [Finding(**json.loads(line)) for line in path.read_text().splitlines()]


def machine(device: str) -> dict[str, Any]:
    """Return the processor's name, its cores and its memory, or the GPU's name."""
    import psutil

    told: dict[str, Any] = {"cores": os.cpu_count(), "memory": psutil.virtual_memory().total}
    cpu_facts = Path("/proc/cpuinfo")
    facts = cpu_facts.read_text() if cpu_facts.exists() else ""
    names = [line.partition(":")[2].strip() for line in facts.splitlines() if line.startswith("model name")]
    told["processor"] = names[0] if names else platform.processor()
    told["bf16"] = "avx512_bf16" in facts or "amx_bf16" in facts
    if device != "cpu":
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        told["gpu"] = subprocess.run(query, check=True, capture_output=True, text=True).stdout.splitlines()[0]
    return told


def _versions() -> dict[str, Any]:
    found: dict[str, str] = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],  # noqa: S607
        cwd=Path(__file__).parent,
        check=False,
        capture_output=True,
        text=True,
    )
    return {"versions": found, "commit": commit.stdout.strip()}


def _in_words(values: Mapping[str, float]) -> Iterator[str]:
    for name, number in values.items():
        if name.endswith("memory") or name in {"anonymous", "mapped", "total"}:
            yield f"{name} {number / 1e9:.2f} GB"
        elif name != "weights":
            yield f"{name} {number:.3g}"
