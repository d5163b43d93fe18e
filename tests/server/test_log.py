"""The server survives a log that it cannot write."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.server.conftest import LIMIT
from tests.server.processes import IMAGEGEN
from tests.waiting import free_port, until_answered


def _closed_streams(command: list[str], **options: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command], **options)  # type: ignore[call-overload,no-any-return]


def _pipe_without_a_reader(command: list[str], **options: object) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(command, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload]
    process.stderr.close()
    return process  # type: ignore[no-any-return]


def _full_disk(command: list[str], **options: object) -> subprocess.Popen[bytes]:
    with Path("/dev/full").open("w") as full:
        return subprocess.Popen(command, stderr=full, **options)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize("start", [_closed_streams, _pipe_without_a_reader, _full_disk])
def test_server_runs_and_exits_with_0_without_a_writable_stderr(
    start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    port = free_port()
    environ = os.environ | {"MODEL": str(tmp_path / "nowhere"), "IMAGEGEN_PORT": str(port)}
    process = start([str(IMAGEGEN), "serve"], env=environ, cwd=tmp_path)
    try:
        url = f"http://127.0.0.1:{port}"
        until_answered(process, None, f"{url}/ready", lambda response: response.json()["status"] == "failed")  # logged
        with httpx.Client(base_url=url, timeout=LIMIT) as http:
            for _ in range(20):
                assert http.get("/nix").status_code == 404
            process.send_signal(signal.SIGTERM)
            assert process.wait(LIMIT) == 0
    finally:
        process.kill()
        process.wait()
