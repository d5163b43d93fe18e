"""Waiting for a condition, or for a server that starts."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx

LIMIT = 90  # seconds that a test waits, because other tests run at the same time


def until(
    condition: Callable[[], Any],
    limit: float = LIMIT,
    message: Callable[[], object] = lambda: "the condition never held",
    every: float = 0.01,
) -> Any:
    """Wait until `condition` holds, and return its value.

    Args:
        condition: The condition; it may also raise an AssertionError to give up.
        limit: Maximum seconds.
        message: The failure's message after this limit.
        every: Seconds between two checks.
    """
    deadline = time.monotonic() + limit
    while not (value := condition()):
        assert time.monotonic() < deadline, message()
        time.sleep(every)
    return value


def until_answered(
    process: subprocess.Popen[Any],
    log: Path | None,
    url: str,
    accept: Callable[[httpx.Response], bool] = lambda response: response.is_success,
    limit: float = LIMIT,
    **options: Any,
) -> None:
    """Wait until a starting server's response is accepted, by default with a status of success.

    Args:
        process: The server.
        log: Its log, for the failure's message, if it has one.
        url: The address to ask, such as that of ``/ready``.
        accept: Checks a response.
        limit: Maximum seconds.
        options: Options of the HTTP client.
    """

    def message() -> str:
        return log.read_text() if log else f"no response from {url}"

    def is_answered() -> bool:
        assert process.poll() is None, message()
        with contextlib.suppress(httpx.TransportError):
            return accept(client.get(url))
        return False

    with httpx.Client(timeout=limit, **options) as client:
        until(is_answered, limit, message, every=0.05)


def free_port() -> int:
    """Return a port that no server listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
