"""Servers for the cluster's benchmarks, in processes of their own, and clients that ask them without pause."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import aiohttp
import httpx2 as httpx
import psutil

START_LIMIT = 300.0
DEMO = {"MODEL": "demo", "CUDA_DEVICE": "cpu", "CUDA_DTYPE": "fp32", "OMP_NUM_THREADS": "1"}
"""The variables of a server that draws with the demo model, with one thread."""

_REPLICA = "ServeReplica:"


@dataclass(frozen=True)
class Server:
    """`imagegen serve`, ready.

    Attributes:
        url: Its address.
        process: Its process, whose children are its Ray's where that is its own.
        log: What it writes to stderr.
    """

    url: str
    process: psutil.Process
    log: Path

    def health(self) -> dict[str, Any]:
        """What ``/health`` says."""
        told: dict[str, Any] = httpx.get(f"{self.url}/health", timeout=60).json()
        return told

    def hosts(self) -> set[str]:
        """The replicas whose model is ready, by name."""
        return {one["host"] for one in self.health()["models"] if one["state"] == "ready"}

    def seconds(self) -> float:
        """CPU seconds that the process has taken."""
        times = self.process.cpu_times()
        return times.user + times.system


@contextlib.contextmanager
def serving(folder: Path, **environ: str) -> Iterator[Server]:
    """`imagegen serve` with all its replicas ready; with ``IMAGEGEN_ENGINE=ray`` on a Ray of its own, unless told."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {"PORT": str(port), "STORAGE_PROVIDER": "disabled", "QUEUE_MAX": "4096", "RAY_ADDRESS": "local"}
    variables["RAY_TMPDIR"] = str(folder)  # where no other Ray of this machine looks
    log = folder / f"{port}.log"
    with log.open("w") as stderr:
        program = Path(sys.executable).parent / "imagegen"
        process = subprocess.Popen(
            [program, "serve"], env=os.environ | variables | environ, stdout=stderr, stderr=stderr, cwd=folder
        )
    server = Server(f"http://127.0.0.1:{port}", psutil.Process(process.pid), log)
    try:
        _until_ready(server, int(environ.get("IMAGEGEN_REPLICAS", "1")))
        yield server
    finally:
        process.terminate()
        process.wait(120)


def on_ray(replicas: int, cpus: float = 0.1) -> dict[str, str]:
    """The variables of a server with so many replicas."""
    return {
        "IMAGEGEN_ENGINE": "ray",
        "IMAGEGEN_REPLICAS": str(replicas),
        "IMAGEGEN_REPLICA_CPUS": str(cpus),
        "IMAGEGEN_REPLICA_GPUS": "0",
    }


def replicas_of(process: psutil.Process) -> list[psutil.Process]:
    """The processes that draw, of those that a process began."""
    found = []
    for one in process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            line = " ".join(one.cmdline())
            if _REPLICA in line and ":Replica" in line:
                found.append(one)
    return found


def until(condition: Callable[[], bool]) -> None:
    """Wait for it.

    Raises:
        RuntimeError: It took too long.
    """
    ends = time.monotonic() + START_LIMIT
    while not condition():
        if time.monotonic() > ends:
            raise RuntimeError("What was waited for did not come")
        time.sleep(0.1)


def _until_ready(server: Server, replicas: int) -> None:
    ends = time.monotonic() + START_LIMIT
    while server.process.is_running() and server.process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < ends:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{server.url}/ready", timeout=60).status_code == 200 and len(server.hosts()) == replicas:
                return
        time.sleep(0.2)
    raise RuntimeError(f"The server did not become ready: {server.log.read_text()[-3000:]}")


@dataclass
class Load:
    """What clients that never pause were answered within the time measured.

    Attributes:
        seconds: How long was measured.
        waited: Seconds of each answer.
        statuses: How many answers there were of each status, before and after too.
    """

    seconds: float
    waited: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    @property
    def per_second(self) -> float:
        """Pictures a second."""
        return len(self.waited) / self.seconds

    @property
    def p50(self) -> float:
        """The median of the latencies."""
        return median(self.waited)

    @property
    def p95(self) -> float:
        """What nineteen in twenty stay below."""
        return quantiles(self.waited, n=20)[-1]


def ask(server: Server, clients: int, seconds: float, warm_up: float = 3.0, **fields: Any) -> Load:
    """Have so many clients ask without pause, first to warm up, and then for the time that is measured."""
    return asyncio.run(_ask(server.url, clients, seconds, warm_up, fields))


async def _ask(url: str, clients: int, seconds: float, warm_up: float, fields: dict[str, Any]) -> Load:
    load, numbers = Load(seconds), count(1)
    begins = time.perf_counter() + warm_up

    async def client(http: aiohttp.ClientSession) -> None:
        while (began := time.perf_counter()) < begins + seconds:
            body = {"prompt": "a star", "seed": next(numbers)} | fields
            async with http.post(f"{url}/generate", json=body) as answer:
                await answer.read()
            load.statuses[answer.status] += 1
            ended = time.perf_counter()
            if answer.status == 200 and begins <= ended < begins + seconds:
                load.waited.append(ended - began)

    limits = aiohttp.TCPConnector(limit=clients)
    async with aiohttp.ClientSession(connector=limits, timeout=aiohttp.ClientTimeout(total=600)) as http:
        await asyncio.gather(*(client(http) for _ in range(clients)))
    if set(load.statuses) != {200}:
        raise RuntimeError(f"Not all requests were answered with pictures: {dict(load.statuses)}")
    return load
