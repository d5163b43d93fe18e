"""The example clients draw with a real server that requires a key."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagegen_core import LocalEngine, Settings, generate, load_worker
from imagegen_core.server import create_app
from tests.server.conftest import listening

CLIENTS = Path(__file__).parent.parent.parent / "examples/clients"
LIMIT = 90  # seconds for a client
PROMPT = "a red circle on a blue background"


@pytest.fixture(scope="module")
def drawn() -> Iterator[tuple[str, dict[int, bytes]]]:
    """A server's address, and the pictures of the red circle by seed, drawn without the server."""
    worker = load_worker(settings=Settings.load(environ={"MODEL": "demo", "IMAGEGEN_DEVICE": "cpu"}))
    alone = {seed: generate(PROMPT, seed=seed, worker=worker).png for seed in (7, 8)}
    with LocalEngine(worker) as engine, listening(create_app(Settings(api_keys=("hush",)), engine)) as url:
        yield url, alone


def _run(folder: Path, url: str, *command: str | Path, key: str = "hush") -> subprocess.CompletedProcess[str]:
    environ = {"PATH": os.environ["PATH"], "IMAGEGEN_URL": url, "IMAGEGEN_API_KEY": key}
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=LIMIT, check=False)


def _node() -> str:
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node is not installed")
    return node


def test_every_example_is_tested_and_described() -> None:
    tested = {"curl.sh", "openai_client.py", "webuiapi_client.py", "javascript_client.mjs"}
    assert {path.name for path in CLIENTS.iterdir()} - {"README.md"} == tested
    assert {name for name in tested if f"[`{name}`]({name})" not in (CLIENTS / "README.md").read_text()} == set()


def test_curl(drawn: tuple[str, dict[int, bytes]], tmp_path: Path) -> None:
    url, alone = drawn
    done = _run(tmp_path, url, "sh", CLIENTS / "curl.sh")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "curl.png").read_bytes() == alone[7]
    assert (tmp_path / "curl-job.png").read_bytes().startswith(b"\x89PNG")
    assert done.stdout.split()[-1] == "done"


def test_openai(drawn: tuple[str, dict[int, bytes]], tmp_path: Path) -> None:
    url, alone = drawn
    done = _run(tmp_path, url, sys.executable, CLIENTS / "openai_client.py")
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / f"openai-{number}.png").read_bytes() for number in (1, 2)] == [alone[7], alone[8]]


def test_webuiapi(drawn: tuple[str, dict[int, bytes]], tmp_path: Path) -> None:
    url, _ = drawn
    done = _run(tmp_path, url, sys.executable, CLIENTS / "webuiapi_client.py")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "webuiapi.png").read_bytes().startswith(b"\x89PNG")
    assert "Seed: 7" in done.stdout


def test_javascript(drawn: tuple[str, dict[int, bytes]], tmp_path: Path) -> None:
    url, alone = drawn
    done = _run(tmp_path, url, _node(), CLIENTS / "javascript_client.mjs")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "javascript.png").read_bytes() == alone[7]
    assert done.stdout.splitlines() == [f"step {step} of 4" for step in range(1, 5)]


def test_the_shell_and_python_clients_fail_with_a_wrong_key(
    drawn: tuple[str, dict[int, bytes]], tmp_path: Path
) -> None:
    url, _ = drawn
    for command in (["sh", "curl.sh"], [sys.executable, "openai_client.py"], [sys.executable, "webuiapi_client.py"]):
        assert _run(tmp_path, url, command[0], CLIENTS / command[1], key="wrong").returncode != 0, command
