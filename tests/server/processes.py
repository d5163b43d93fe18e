"""``imagegen serve`` in its own process."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2 as httpx

from tests.server.conftest import LIMIT
from tests.waiting import free_port, until_answered

IMAGEGEN = Path(sys.executable).parent / "imagegen"


@dataclass
class Process:
    """A server in its own process."""

    process: subprocess.Popen[str]
    http: httpx.Client
    log: Path

    def until_ready(self) -> None:
        until_answered(self.process, self.log, f"{self.http.base_url}/ready")

    def records(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@contextlib.contextmanager
def serving(tmp_path: Path, checkpoint: Path, **environ: str) -> Iterator[Process]:
    port = free_port()
    log = tmp_path / "log"
    variables = {"MODEL": str(checkpoint), "CUDA_DTYPE": "fp32", "PORT": str(port), "OMP_WAIT_POLICY": "PASSIVE"}
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [IMAGEGEN, "serve"], env=os.environ | variables | environ, stderr=stderr, text=True, cwd=tmp_path
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=LIMIT) as http:
            yield Process(process, http, log)
    finally:
        process.kill()
        process.wait()
