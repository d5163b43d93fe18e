"""Authentication of the Ray cluster that ``imagegen serve --engine ray`` starts."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from imagegen_core.cluster.authentication import choose_authentication
from tests.cluster.conftest import LIMIT, pytestmark
from tests.cluster.test_serving import BIN, until_ready
from tests.waiting import free_port

__all__ = ["pytestmark"]

TOKEN = "a" * 64


@pytest.mark.parametrize(
    ("variables", "mode", "token"),
    [
        ({}, "token", "random"),
        ({"RAY_ADDRESS": "local"}, "token", "random"),
        ({"RAY_AUTH_MODE": "token"}, "token", "random"),
        ({"RAY_AUTH_TOKEN": TOKEN}, "token", TOKEN),
        ({"RAY_AUTH_TOKEN_PATH": "/run/token"}, "token", None),
        ({"RAY_AUTH_MODE": "disabled"}, "disabled", None),
        ({"RAY_ADDRESS": "10.0.0.1:6379"}, None, None),
        ({"RAY_ADDRESS": "10.0.0.1:6379", "RAY_AUTH_MODE": "token"}, "token", None),
    ],
    ids=str,
)
def test_the_servers_own_cluster_requires_a_token(
    variables: dict[str, str], mode: str | None, token: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    environ = dict(variables)
    choose_authentication(environ)
    assert environ.get("RAY_AUTH_MODE") == mode
    if token == "random":
        assert len(environ["RAY_AUTH_TOKEN"]) == 64
    else:
        assert environ.get("RAY_AUTH_TOKEN") == token


def test_a_token_in_the_home_folder_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(TOKEN)
    environ: dict[str, str] = {}
    choose_authentication(environ)
    assert environ == {"RAY_AUTH_MODE": "token"}


def _gcs_address(process: subprocess.Popen[str]) -> str:
    for child in psutil.Process(process.pid).children(recursive=True):
        for word in child.cmdline():
            if word.startswith("--gcs-address="):
                return word.partition("=")[2]
    raise AssertionError("the cluster has no address")


def _join(address: str, **environ: str) -> str:
    code = f"import ray; ray.init(address={address!r}, log_to_driver=False); print('joined')"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    completed = subprocess.run(
        [sys.executable, "-c", code], env=clean | environ, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    return completed.stdout + completed.stderr


def test_a_server_without_a_home_folder_refuses_clients_without_token(tmp_path: Path, plugin_path: str) -> None:
    port, log = free_port(), tmp_path / "log"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_") and name != "HOME"}
    environ = clean | {
        "RAY_ADDRESS": "local",
        "HOME": "/nowhere",
        "PYTHONPATH": plugin_path,
        "STORAGE_PROVIDER": "disabled",
        "BACKEND": "scripted",
        "IMAGEGEN_PORT": str(port),
    }
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [BIN / "imagegen", "serve", "--engine", "ray"], env=environ, stderr=stderr, text=True, cwd=tmp_path
        )
    try:
        until_ready(f"http://127.0.0.1:{port}", process, log)
        address = _gcs_address(process)
        token = next(
            child.environ()["RAY_AUTH_TOKEN"]
            for child in psutil.Process(process.pid).children(recursive=True)
            if "RAY_AUTH_TOKEN" in child.environ()
        )
        mode = {"RAY_AUTH_MODE": "token"}
        credentials: list[dict[str, str]] = [{}, mode | {"RAY_AUTH_TOKEN": TOKEN}, mode | {"RAY_AUTH_TOKEN": token}]
        with ThreadPoolExecutor(len(credentials)) as pool:
            outputs = list(pool.map(lambda environ: _join(address, **environ), credentials))
        assert ["joined" in output for output in outputs] == [False, False, True], outputs
        assert token not in log.read_text()
    finally:
        process.terminate()
        assert process.wait(LIMIT) == 0, log.read_text()
