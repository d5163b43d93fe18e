"""Replicas killed at work: what is lost, what is changed, and how long until they are back."""

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
_ASKED = {"prompt": "a red star", "size": "256x256", "num_inference_steps": 4}
_DRAWN_AGAIN = "what it drew is drawn again"  # of a line in the front's log
_FLOWING = 2 * CLIENTS  # pictures that show that all is well


def kills(folder: Path, kills: int, log: Path) -> None:
    """Kill one replica after another while clients ask, and count what they are answered."""
    alone = _drawn_alone()
    with (
        log.open("w", buffering=1) as file,
        _cluster(folder) as (cluster, environ),
        serving(folder, **DEMO, **on_ray(REPLICAS, cpus=1), **environ) as server,
    ):
        clients, back = Clients(server.url, alone), []
        with clients.asking():
            while len(back) < kills:
                back += _kill(server, clients, cluster, len(back) + 1, file)
            clients.flow()
        _say(f"{kills} replicas killed at work; until all were back: {spread(back, 1)} s", file)
        _say(clients.summary(), file)


def _drawn_alone() -> dict[int, bytes]:
    """What one worker draws of each seed, with nobody else about."""
    import torch

    from imagegen_core import GenerateRequest, Job, Settings, load_worker

    torch.set_num_threads(1)  # as the replicas have; some CPUs compute other bits with more
    worker = load_worker(settings=Settings.load(environ={}, model="demo", device="cpu", dtype="fp32"))
    return {seed: worker.run_job(Job(req=GenerateRequest(seed=seed, **_ASKED)))[0] for seed in range(SEEDS)}


class Clients:
    """Ask for known seeds without pause, and compare each picture with what one worker draws alone."""

    def __init__(self, url: str, alone: dict[int, bytes]) -> None:
        self._url, self._alone = url, alone
        self._over = threading.Event()
        self._counting = threading.Lock()
        self.right = self._changed = 0
        self._lost: list[str] = []
        self._waited: list[float] = []

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """While this lasts, they ask; those that wait at its end are answered before it ends."""
        with ThreadPoolExecutor(CLIENTS) as pool:
            running = [pool.submit(self._run, number) for number in range(CLIENTS)]
            try:
                yield
            finally:
                self._over.set()
            for one in running:
                one.result()

    def flow(self) -> None:
        """Return once more pictures have come."""
        wanted = self.right + _FLOWING
        until(lambda: self.right >= wanted)

    def summary(self) -> str:
        """What they were answered, in words."""
        asked = self.right + self._changed + len(self._lost)
        return (
            f"{asked} requests asked, {len(self._lost)} lost {self._lost or ''}(to reach: 0), {self._changed} changed "
            f"(to reach: 0); latency: median {median(self._waited):.2f} s, slowest {max(self._waited):.1f} s"
        )

    def _run(self, number: int) -> None:
        with httpx.Client(base_url=self._url, timeout=600) as http:
            while not self._over.is_set():
                number = (number + CLIENTS + 1) % SEEDS
                began = time.perf_counter()
                try:
                    answer = http.post("/generate", json={"seed": number, **_ASKED})
                    what = "" if answer.status_code == 200 else f"{answer.status_code}: {answer.text}"
                except httpx.HTTPError as error:
                    what = repr(error)
                with self._counting:
                    self._waited.append(time.perf_counter() - began)
                    if what:
                        self._lost.append(what)
                    elif answer.content == self._alone[number]:
                        self.right += 1
                    else:
                        self._changed += 1


def _kill(server: Server, clients: Clients, cluster: psutil.Process, number: int, log: TextIO) -> list[float]:
    """Kill a replica at work; the seconds until all were back, or nothing where it had just become idle."""
    until(lambda: len(replicas_of(cluster)) == len(server.hosts()) == REPLICAS)
    clients.flow()
    before, known = server.log.read_text().count(_DRAWN_AGAIN), server.hosts()
    victim = _busiest(replicas_of(cluster))
    at, began = datetime.now(UTC), time.monotonic()
    victim.kill()
    until(lambda: len(replicas_of(cluster)) == len(hosts := server.hosts()) == REPLICAS and hosts != known)
    back = time.monotonic() - began
    in_hand = server.log.read_text().count(_DRAWN_AGAIN) - before
    counted = f"{number:2}" if in_hand else " -"
    _say(
        f"{counted} {at:%Y-%m-%dT%H:%M:%S.%f}Z SIGKILL to process {victim.pid}, {in_hand} requests in hand, "
        f"all back after {back:.1f} s",
        log,
    )
    return [back] if in_hand else []


def _busiest(processes: list[psutil.Process]) -> psutil.Process:
    """The one that computes most at the moment."""

    def seconds() -> list[float]:
        return [one.cpu_times().user for one in processes]

    before = seconds()
    time.sleep(0.3)
    taken = [after - earlier for earlier, after in zip(before, seconds(), strict=True)]
    return processes[taken.index(max(taken))]


def _say(line: str, log: TextIO) -> None:
    print(line, flush=True)
    log.write(line + "\n")


@contextlib.contextmanager
def _cluster(folder: Path) -> Iterator[tuple[psutil.Process, dict[str, str]]]:
    """A cluster of two nodes in a process of its own; that process, and what a server needs to join it."""
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


def _hold(line: Connection, environ: dict[str, str]) -> None:
    """In a child: begin the nodes, say where they are, and end them when told."""
    os.environ.update(environ)
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    for _ in range(NODES - 1):
        cluster.add_node(num_cpus=2)
    line.send(cluster.address)
    line.recv()
    cluster.shutdown()
