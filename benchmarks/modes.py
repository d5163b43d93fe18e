"""Switch between modes under load, and measure failures, time and resources.

A server in its own process has four modes of three tiny random checkpoints, and memory for two checkpoints. Clients
draw in all modes during switches of the default mode. Each picture is compared with a picture of the mode drawn alone.
Before that, this process requests a loaded mode while another mode draws. It measures the wait until the picture
begins, in steps of the other mode.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import httpx2 as httpx
import psutil
from figures import show, spread

from imagegen_core import GenerateRequest, Registry, Started, StepDone
from imagegen_core.hosting.mode_manager import ModeManager
from imagegen_core.modes import load_modes
from tests.modes import NAMES, Zoo, make_zoo

SEED = 7
ROOM_FOR_TWO = "11MB"
LONG, SHORT = {"size": "256x256", "num_inference_steps": 40}, {"size": "64x64", "num_inference_steps": 2}


@contextlib.contextmanager
def serving(zoo: Zoo, folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Start a server, and yield its address and process when it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "modes.yaml").write_text(zoo.yaml)
    environ = {"CUDA_DTYPE": "fp32", "CUDA_DEVICE": "cpu", "PORT": str(port), "IMAGEGEN_MEMORY_BUDGET": ROOM_FOR_TWO}
    with (folder / "log").open("w") as log:
        program = Path(sys.executable).parent / "imagegen"
        process = subprocess.Popen([program, "serve"], env=os.environ | environ, stderr=log, cwd=folder)
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/ready").status_code == 200:
                    break
            time.sleep(0.05)
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


class Clients:
    """Draw in random modes until `stopped` is set, and count failed requests and wrong pictures."""

    def __init__(self, url: str, alone: dict[str, bytes]) -> None:
        self.url, self.alone = url, alone
        self.stopped = threading.Event()
        self.drawn = self.failed = self.differing = 0
        self._counting = threading.Lock()

    def check(self, http: httpx.Client, name: str) -> None:
        """Draw one picture."""
        response = http.post("/generate", json={"prompt": "a star", "seed": SEED, "mode": name})
        with self._counting:
            self.drawn += 1
            self.failed += response.status_code != 200
            self.differing += response.status_code == 200 and response.content != self.alone[name]

    def run(self, number: int) -> None:
        """Run one client."""
        generator = random.Random(number)
        with httpx.Client(base_url=self.url, timeout=300) as http:
            while not self.stopped.is_set():
                self.check(http, generator.choice(NAMES))


def switches(zoo: Zoo, folder: Path, alone: dict[str, bytes], count: int, clients: int) -> None:
    """Switch `count` times under load, and print the results."""
    resources: list[list[str]] = []
    resident, loading = [], []
    with serving(zoo, folder) as (url, process), httpx.Client(base_url=url, timeout=300) as http:
        drawing = Clients(url, alone)
        with ThreadPoolExecutor(clients) as pool:
            running = [pool.submit(drawing.run, number) for number in range(clients)]
            for turn in range(count + 1):
                if turn % (count // 5) == 0:
                    memory = process.memory_info().rss / 2**20
                    resources.append([str(turn), f"{memory:.0f}", str(process.num_threads()), str(process.num_fds())])
                name = random.Random(turn).choice(NAMES)
                loads, began = http.get("/api/models/status").json()["loads"], time.perf_counter()
                drawing.failed += http.post("/api/modes/switch", json={"mode": name}).status_code != 200
                seconds = time.perf_counter() - began
                after = http.get("/api/models/status").json()["loads"]
                (resident if after == loads else loading).append(seconds)
            drawing.stopped.set()
            for future in running:
                future.result()
        status = http.get("/api/models/status").json()
    print(
        f"\n{count} switches, {clients} clients: {drawing.drawn} pictures, {drawing.failed} failed requests, ", end=""
    )
    print(f"{drawing.differing} changed pictures; {status['loads']} loads, {status['unloads']} unloads\n")
    show(("after switches", "resident MiB", "threads", "descriptors"), resources)
    print(f"\nA switch to a loaded mode: {spread(resident, 3)} s; to another mode: {spread(loading, 2)} s")


def delays(zoo: Zoo, folder: Path, count: int) -> None:
    """Request a mode while another mode draws, and print the wait in steps of the other mode."""
    settings = zoo.settings(folder)
    model = ModeManager(settings, Registry.discover())
    modes = load_modes(settings)
    busy, idle = modes.find("other"), modes.find("old")
    model.start()
    for mode in (modes.find(None), busy, idle):
        model.models.load(mode)

    def submit(mode: Any, fields: dict[str, Any]) -> Any:
        return model.submit(mode, mode.complete(GenerateRequest(prompt="a star", seed=SEED, **fields)), None)

    submit(idle, SHORT).result()
    began_alone = []
    for _ in range(count):
        ticket = submit(idle, SHORT)
        ticket.result()
        began_alone.append(ticket.events.when(Started) - ticket.since)
    waits, steps = [], []
    for _ in range(count):
        long = submit(busy, LONG)
        while (step := long.events.latest(StepDone)) is None or step.step < 3:
            time.sleep(0.001)
        start, first = time.monotonic(), long.events.latest(StepDone).step
        ticket = submit(idle, SHORT)
        ticket.result()
        waits.append(ticket.events.when(Started) - ticket.since - median(began_alone))
        last = long.events.latest(StepDone).step
        long.result()
        done, whole = long.events.latest(StepDone).step, time.monotonic() - start
        steps.append(whole / (done - first))
        if last >= done:
            raise RuntimeError("The other mode finished first: give it more steps")
    model.close()
    step = median(steps)
    print(
        f"\nA step of the busy mode: {spread([1000 * seconds for seconds in steps], 1)} ms. Wait for the other mode's ",
        end="",
    )
    print(f"picture, above its time alone: {spread([wait / step for wait in waits])} steps")


def main() -> None:
    """Run the measurements and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--switches", type=int, default=500)
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--delays", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        zoo = make_zoo(folder / "models")
        alone = zoo.alone(folder, SEED)
        delays(zoo, folder, options.delays)
        switches(zoo, folder, alone, options.switches, options.clients)


if __name__ == "__main__":
    main()
