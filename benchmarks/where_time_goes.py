"""Where the time of a picture goes under load, and where that of a step goes, operator by operator."""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from engine import CLIENTS, asked_of, engine_of, requests
from figures import show

PICTURES = 256
STEPS = 20


class Stopwatch:
    """Seconds spent in what it wraps, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def wrap(self, holder: Any, method: str, name: str) -> None:
        """Time every call of a method from now on."""
        timed: Callable[..., Any] = getattr(holder, method)

        def timing(*arguments: Any, **keywords: Any) -> Any:
            began = time.perf_counter()
            try:
                return timed(*arguments, **keywords)
            finally:
                self.seconds[name] += time.perf_counter() - began

        setattr(holder, method, timing)


def shares(checkpoint: str, dtype: str, side: int) -> list[list[str]]:
    """Milliseconds a picture, of an engine that sixteen clients ask."""
    running = engine_of(checkpoint, dtype)
    work = asked_of(running, side, PICTURES, CLIENTS)
    worker, watch = running._worker, Stopwatch()
    for holder, method in ((worker, "begin"), (worker, "step"), (worker, "trial"), (worker, "finish")):
        watch.wrap(holder, method, method)
    watch.wrap(worker.pipe.unet, "forward", "unet")
    watch.wrap(worker.pipe.vae, "decode", "decode")
    began = time.perf_counter()
    work(0)
    whole = time.perf_counter() - began
    running.close()
    told = watch.seconds
    stepping = told["step"] + told["trial"]
    parts = {
        "the UNet's forward passes": told["unet"],
        "the rest of a step: gathering rows, schedulers": stepping - told["unet"],
        "encoding prompts, drawing noise": told["begin"],
        "the VAE's decoding": told["decode"],
        "the rest of finishing: pixels, pooled latents": told["finish"] - told["decode"],
        "all else: queue, turns, events, encoding PNGs beside": whole - stepping - told["begin"] - told["finish"],
    }
    on = f"{side} px, {dtype}"
    return [[on, name, f"{1000 * taken / PICTURES:.1f}", f"{taken / whole:.0%}"] for name, taken in parts.items()]


def operators(checkpoint: str, dtype: str, side: int, rows: int) -> list[list[str]]:
    """The operators that take most of a step of so many rows."""
    from torch.profiler import ProfilerActivity, profile

    from imagegen_core import Job

    running = engine_of(checkpoint, dtype)
    worker = running._worker
    asked = islice(requests(side, 0, num_inference_steps=2 * STEPS), rows)
    states = [worker.begin(Job(req=request)) for request in asked]

    def steps() -> Any:
        with profile(activities=[ProfilerActivity.CPU]) as taken:
            for _ in range(STEPS):
                worker.step(states)
        return taken.key_averages()

    worker._compute.run(steps)
    told = worker._compute.run(steps)  # the thread that computes is the one that is profiled
    running.close()
    whole = sum(one.self_cpu_time_total for one in told)
    largest = sorted(told, key=lambda one: -one.self_cpu_time_total)[:8]
    on = f"{side} px, {dtype}, {rows} rows"
    return [[on, one.key, f"{one.self_cpu_time_total / whole:.0%}", str(one.count // STEPS)] for one in largest]


def main() -> None:
    """Measure and print."""
    import imagegen_demo

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", default="fp32")
    options = parser.parse_args()
    demo = str(Path(imagegen_demo.__file__).parent / "checkpoint")
    split = [row for side in (128, 256) for row in shares(demo, options.dtype, side)]
    show(["on", "what", "ms a picture", "of the time"], split)
    taken = [row for side in (128, 256) for row in operators(demo, options.dtype, side, 8)]
    show(["a step of", "operator", "of the step", "calls a step"], taken)


if __name__ == "__main__":
    main()
