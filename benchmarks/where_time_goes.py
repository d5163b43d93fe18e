"""Split the time of a picture under load into parts, and the time of a step into operators."""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from engine import CLIENTS, client_load, load_engine, requests
from figures import show

PICTURES = 256
STEPS = 20


class Stopwatch:
    """Counts the seconds in wrapped methods, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def wrap(self, holder: Any, method: str, name: str) -> None:
        """Measure every call of a method from now on."""
        timed: Callable[..., Any] = getattr(holder, method)

        def timing(*arguments: Any, **keywords: Any) -> Any:
            began = time.perf_counter()
            try:
                return timed(*arguments, **keywords)
            finally:
                self.seconds[name] += time.perf_counter() - began

        setattr(holder, method, timing)


def shares(checkpoint: str, dtype: str, side: int) -> list[list[str]]:
    """Return the milliseconds for a picture, by part, of an engine with sixteen clients."""
    running = load_engine(checkpoint, dtype)
    work = client_load(running, side, PICTURES, CLIENTS)
    worker, watch = running._worker, Stopwatch()
    for holder, method in ((worker, "begin"), (worker, "step"), (worker, "trial"), (worker, "finish")):
        watch.wrap(holder, method, method)
    watch.wrap(worker.pipe.unet, "forward", "unet")
    watch.wrap(worker.pipe.vae, "decode", "decode")
    began = time.perf_counter()
    work(0)
    whole = time.perf_counter() - began
    running.close()
    seconds = watch.seconds
    stepping = seconds["step"] + seconds["trial"]
    parts = {
        "the UNet's forward passes": seconds["unet"],
        "the rest of a step: gathering rows, schedulers": stepping - seconds["unet"],
        "encoding prompts, drawing noise": seconds["begin"],
        "the VAE's decoding": seconds["decode"],
        "the rest of finishing: pixels, pooled latents": seconds["finish"] - seconds["decode"],
        "all else: queue, turns, events, encoding PNGs beside": whole - stepping - seconds["begin"] - seconds["finish"],
    }
    on = f"{side} px, {dtype}"
    return [[on, name, f"{1000 * part / PICTURES:.1f}", f"{part / whole:.0%}"] for name, part in parts.items()]


def operators(checkpoint: str, dtype: str, side: int, rows: int) -> list[list[str]]:
    """Return the slowest operators in a step of `rows` rows."""
    from torch.profiler import ProfilerActivity, profile

    from imagegen_core import Job

    running = load_engine(checkpoint, dtype)
    worker = running._worker
    batch = islice(requests(side, 0, num_inference_steps=2 * STEPS), rows)
    states = [worker.begin(Job(req=request)) for request in batch]

    def steps() -> Any:
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for _ in range(STEPS):
                worker.step(states)
        return profiler.key_averages()

    worker._compute.run(steps)
    averages = worker._compute.run(steps)  # the profiler records only its own thread
    running.close()
    whole = sum(row.self_cpu_time_total for row in averages)
    largest = sorted(averages, key=lambda row: -row.self_cpu_time_total)[:8]
    on = f"{side} px, {dtype}, {rows} rows"
    return [[on, row.key, f"{row.self_cpu_time_total / whole:.0%}", str(row.count // STEPS)] for row in largest]


def main() -> None:
    """Run the measurements and print the tables."""
    import imagegen_demo

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", default="fp32")
    options = parser.parse_args()
    demo = str(Path(imagegen_demo.__file__).parent / "checkpoint")
    split = [row for side in (128, 256) for row in shares(demo, options.dtype, side)]
    show(["on", "part", "ms a picture", "share of the time"], split)
    operator_rows = [row for side in (128, 256) for row in operators(demo, options.dtype, side, 8)]
    show(["a step of", "operator", "share of the step", "calls a step"], operator_rows)


if __name__ == "__main__":
    main()
