"""Kill busy replicas, and count lost requests, changed pictures and the seconds until all replicas are back."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import TextIO

import httpx2 as httpx
import psutil
from cluster_servers import DEMO, Server, on_ray, replicas_of, serving, until
from figures import spread

NODES, REPLICAS, CLIENTS, SEEDS = 2, 3, 6, 24
_REQUEST = {"prompt": "a red star", "size": "256x256", "num_inference_steps": 4}
_DRAWN_AGAIN = "another draws its pictures again"  # in a line of the front's log
_FLOWING = 2 * CLIENTS  # pictures as a sign that all works


def kills(folder: Path, kills: int, log: Path) -> None:
    """Kill one replica after another while clients send requests, and check the responses."""
    expected = _draw_alone()
    with (
        log.open("w", buffering=1) as file,
        _cluster(folder) as (cluster, environ),
        serving(folder, **DEMO, **on_ray(REPLICAS, cpus=1), **environ) as server,
    ):
        clients, seconds = Clients(server.url, expected), []
        with clients.asking():
            while len(seconds) < kills:
                seconds += _kill(server, clients, cluster, len(seconds) + 1, file)
            clients.flow()
        _log(f"{kills} busy replicas killed; time until all were back: {spread(seconds, 1)} s", file)
        _log(clients.summary(), file)


def _draw_alone() -> dict[int, bytes]:
    """Return each seed's picture, drawn by a worker without other requests."""
    import torch

    from imagegen_core import GenerateRequest, Job, Settings, load_worker

    torch.set_num_threads(1)  # as in the replicas; with more threads, some CPUs compute other bits
    worker = load_worker(settings=Settings.load(environ={}, model="demo", device="cpu", dtype="fp32"))
    return {seed: worker.run_job(Job(req=GenerateRequest(seed=seed, **_REQUEST)))[0] for seed in range(SEEDS)}


class Clients:
    """Request known seeds without pause, and compare each picture with a picture drawn alone."""

    def __init__(self, url: str, alone: dict[int, bytes]) -> None:
        self._url, self._alone = url, alone
        self._stopped = threading.Event()
        self._counting = threading.Lock()
        self.right = self._changed = 0
        self._lost: list[str] = []
        self._waited: list[float] = []

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """Run the clients inside this context; its exit waits for the last responses."""
        with ThreadPoolExecutor(CLIENTS) as pool:
            running = [pool.submit(self._run, number) for number in range(CLIENTS)]
            try:
                yield
            finally:
                self._stopped.set()
            for future in running:
                future.result()

    def flow(self) -> None:
        """Wait for more pictures."""
        target = self.right + _FLOWING
        until(lambda: self.right >= target)

    def summary(self) -> str:
        """Return a sentence about the responses."""
        total = self.right + self._changed + len(self._lost)
        return (
            f"{total} requests, {len(self._lost)} lost {self._lost or ''}(target: 0), {self._changed} changed "
            f"(target: 0); latency: median {median(self._waited):.2f} s, maximum {max(self._waited):.1f} s"
        )

    def _run(self, number: int) -> None:
        with httpx.Client(base_url=self._url, timeout=600) as http:
            while not self._stopped.is_set():
                number = (number + CLIENTS + 1) % SEEDS
                began = time.perf_counter()
                try:
                    response = http.post("/generate", json={"seed": number, **_REQUEST})
                    problem = "" if response.status_code == 200 else f"{response.status_code}: {response.text}"
                except httpx.HTTPError as error:
                    problem = repr(error)
                with self._counting:
                    self._waited.append(time.perf_counter() - began)
                    if problem:
                        self._lost.append(problem)
                    elif response.content == self._alone[number]:
                        self.right += 1
                    else:
                        self._changed += 1


def _kill(server: Server, clients: Clients, cluster: psutil.Process, number: int, log: TextIO) -> list[float]:
    """Kill a busy replica, and return the seconds until all are back; an empty list if it was idle."""
    until(lambda: len(replicas_of(cluster)) == len(server.hosts()) == REPLICAS)
    clients.flow()
    before, known = server.log.read_text().count(_DRAWN_AGAIN), server.hosts()
    victim = _busiest(replicas_of(cluster))
    at, began = datetime.now(UTC), time.monotonic()
    victim.kill()
    until(lambda: len(replicas_of(cluster)) == len(hosts := server.hosts()) == REPLICAS and hosts != known)
    seconds = time.monotonic() - began
    running = server.log.read_text().count(_DRAWN_AGAIN) - before
    counted = f"{number:2}" if running else " -"
    _log(
        f"{counted} {at:%Y-%m-%dT%H:%M:%S.%f}Z SIGKILL to process {victim.pid}, {running} running requests, "
        f"all back after {seconds:.1f} s",
        log,
    )
    return [seconds] if running else []


def _busiest(processes: list[psutil.Process]) -> psutil.Process:
    """Return the busiest process at the moment."""

    def seconds() -> list[float]:
        return [process.cpu_times().user for process in processes]

    before = seconds()
    time.sleep(0.3)
    used = [after - earlier for earlier, after in zip(before, seconds(), strict=True)]
    return processes[used.index(max(used))]


def _log(line: str, log: TextIO) -> None:
    print(line, flush=True)
    log.write(line + "\n")


@contextlib.contextmanager
def _cluster(folder: Path) -> Iterator[tuple[psutil.Process, dict[str, str]]]:
    """Start a cluster of two nodes in its own process; yield the process and the environment for a server."""
    environ = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_TMPDIR": str(folder),
    }
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_hold, args=(theirs, environ))
    process.start()
    try:
        yield psutil.Process(process.pid), environ | {"RAY_ADDRESS": ours.recv()}
    finally:
        ours.send(None)
        process.join(60)


def _hold(connection: Connection, environ: dict[str, str]) -> None:
    """In a child process: start the nodes, send their address, and stop them after a message."""
    os.environ.update(environ)
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    for _ in range(NODES - 1):
        cluster.add_node(num_cpus=2)
    connection.send(cluster.address)
    connection.recv()
    cluster.shutdown()
