"""Compare the OpenVINO backend with the torch backend on one checkpoint: steps, pictures, loading and memory.

Each backend draws with its own engine in its own process, in turn. A ratio below 1 means that OpenVINO is faster. For
a full-size model: `--checkpoint FOLDER --torch sd15 --sides 512 --dtypes bf16 --rounds 3 --pictures 1 --rows 1`. The
first load converts the checkpoint, and is not among the figures.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from engine import client_load
from figures import show, spread
from sides import Side, Work, take_turns

# In a child process: seconds to load, peak megabytes of loading and one picture beyond the libraries, and in total.
LOADING = """
import sys, time
from imagegen_core import GenerateRequest, Job, Registry, Settings

def peak():
    fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(fields["VmHWM"].split()[0]) / 1024

backend, model, dtype, size = sys.argv[1:]
make = Registry.discover().backend(backend).load()
before, started = peak(), time.perf_counter()
worker = make(worker_id=0, settings=Settings(model=model, dtype=dtype, device="cpu"))
seconds = time.perf_counter() - started
worker.run_job(Job(req=GenerateRequest(prompt="a", size=size, num_inference_steps=1)))
print(seconds, peak() - before, peak())
"""


def worker_of(backend: str, model: str, dtype: str) -> Any:
    """Return a worker on the CPU."""
    from imagegen_core import Settings, load_worker

    return load_worker(settings=Settings.load(environ={}, backend=backend, model=model, dtype=dtype, device="cpu"))


def steps(backend: str, model: str, dtype: str, side: int, rows: int) -> Work:
    """Return work of `rows` states in shared steps; it returns the seconds of one step."""
    from imagegen_core import GenerateRequest, Job

    worker = worker_of(backend, model, dtype)

    def work(number: int) -> float:
        requests = (
            GenerateRequest(prompt="a red star on a blue background", size=f"{side}x{side}", seed=number * rows + row)
            for row in range(rows)
        )
        states = [worker.begin(Job(req=request)) for request in requests]
        started = time.perf_counter()
        for _ in range(4):
            worker.step(states)
        return (time.perf_counter() - started) / 4

    return work


def pictures(backend: str, model: str, dtype: str, side: int, count: int) -> Work:
    """Return work of `count` pictures from an engine with up to eight clients."""
    from imagegen_core import LocalEngine

    return client_load(LocalEngine(worker_of(backend, model, dtype)), side, count, clients=min(8, count))


def ratios(sides: dict[str, list[float]]) -> list[float]:
    """Divide OpenVINO's seconds by torch's seconds, round by round."""
    ours, theirs = sides.values()
    return [ours / theirs for ours, theirs in zip(ours, theirs, strict=True)]


def loading(backends: list[str], model: str, dtype: str, size: str, rounds: int) -> dict[str, list[list[float]]]:
    """Return the seconds to load, the megabytes beyond the libraries, and the total megabytes, round by round."""
    measured: dict[str, list[list[float]]] = {backend: [] for backend in backends}
    for _ in range(rounds):
        for backend in backends:
            command = [sys.executable, "-c", LOADING, backend, model, dtype, size]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            measured[backend].append([float(word) for word in done.stdout.split()])
    return measured


def main() -> None:
    """Run the measurements and print the tables."""
    import imagegen_demo

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default=str(Path(imagegen_demo.__file__).parent / "checkpoint"))
    parser.add_argument("--torch", default="sdxl", help="torch's backend for the checkpoint")
    parser.add_argument("--sides", nargs="+", type=int, default=[256, 512])
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--pictures", type=int, default=16)
    options = parser.parse_args()
    model, backends = options.checkpoint, ["openvino", options.torch]
    picture_rows, loading_rows = [], []
    for dtype in options.dtypes:
        worker_of("openvino", model, dtype)  # converts
        for side in options.sides:
            row = [f"{side} px {dtype}"]
            for rows in options.rows:
                sides: dict[str, Side] = {name: (steps, (name, model, dtype, side, rows)) for name in backends}
                seconds = take_turns(sides, options.rounds)
                row += [spread([1000 * value for value in seconds[options.torch]], 1), spread(ratios(seconds))]
            sides = {name: (pictures, (name, model, dtype, side, options.pictures)) for name in backends}
            seconds = take_turns(sides, max(3, options.rounds // 3))
            row += [spread([options.pictures / value for value in seconds[options.torch]], 2), spread(ratios(seconds))]
            picture_rows.append(row)
        largest = f"{options.sides[-1]}x{options.sides[-1]}"
        measured = loading(backends, model, dtype, largest, max(3, options.rounds // 3))
        for name, figures in measured.items():
            loading_rows.append([f"{name} {dtype}", *(spread(column, 1) for column in zip(*figures, strict=True))])
    show(
        [
            "picture",
            *(column for rows in options.rows for column in (f"torch, step of {rows}, ms", "openvino, ratio")),
            "torch, images/s",
            "openvino, ratio of time",
        ],
        picture_rows,
    )
    show(["worker", "to load, s", "memory beyond the libraries, MB", "memory, MB"], loading_rows)


if __name__ == "__main__":
    main()
