"""Compare the engine with the plain diffusers pipeline, with batches of whole requests, and with a bare loop.

Every figure is a ratio of two measurements, taken in turn in one run. `--chart` draws them for docs/performance.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

from figures import chart, show, spread
from plain_pipeline import encoded, plain_pipeline
from sides import Side, Work, take_turns

sys.path.insert(0, str(Path(__file__).parent.parent))

CLIENTS = 16
PICTURES = 32
LONG, SHORT, OTHERS = 30, 4, 8


def plain(checkpoint: str, dtype: str | None, side: int, pictures: int) -> Work:
    """Return work of the plain pipeline, one picture after another."""
    import torch

    pipe = plain_pipeline(checkpoint, dtype)

    def work(number: int) -> None:
        for seed in range(pictures):
            image = pipe(
                f"a red star on a blue background, take {number * pictures + seed}",
                num_inference_steps=4,
                guidance_scale=1.0,
                width=side,
                height=side,
                generator=torch.Generator("cpu").manual_seed(seed),
            ).images[0]
            encoded(image)

    return work


def load_engine(checkpoint: str, dtype: str | None, device: str = "cpu", **settings: Any) -> Any:
    """Return an engine; None as dtype is the worker's default."""
    from imagegen_core import LocalEngine, Settings, load_worker

    given = {"model": checkpoint, "device": device, "dtype": dtype, **settings}
    return LocalEngine(load_worker(settings=Settings.load(environ={}, **given)))


def requests(side: int, start: int, **fields: Any) -> Iterator[Any]:
    """Yield requests with new prompts, without end."""
    from imagegen_core import GenerateRequest

    for seed in count(start):
        prompt = f"a red star on a blue background, take {seed}"
        yield GenerateRequest(**{"prompt": prompt, "size": f"{side}x{side}", "seed": seed, **fields})


def client_load(running: Any, side: int, pictures: int, clients: int, warm_ups: int = 4) -> Work:
    """Return work of an engine with a number of clients; each sends its next request after a response."""
    from queue import SimpleQueue

    finished: SimpleQueue[Any] = SimpleQueue()

    def submit(request: Any) -> None:
        running.submit(request).job.fut.add_done_callback(finished.put)

    def work(number: int) -> None:
        pending = requests(side, number * pictures)
        for _ in range(clients):
            submit(next(pending))
        for index in range(pictures):
            finished.get().result()
            if index < pictures - clients:
                submit(next(pending))

    for warming_up in range(warm_ups):
        work(1000 + warming_up)
    return work


def engine(checkpoint: str, dtype: str | None, side: int, pictures: int, clients: int) -> Work:
    """Return work of the engine with the worker's defaults, except for the precision."""
    return client_load(load_engine(checkpoint, dtype), side, pictures, clients)


def whole_batches(checkpoint: str, dtype: str, side: int) -> Work:
    """Return `wait_for_batch` with a new pipeline."""
    return wait_for_batch(plain_pipeline(checkpoint, dtype), side)


def wait_for_batch(pipe: Any, side: int, long: int = LONG, short: int = SHORT) -> Work:
    """Return work with batches of whole requests: a new request waits for the end of the running batch."""
    import torch

    def draw(prompts: list[str], steps: int) -> None:
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in range(len(prompts))]
        images = pipe(
            prompts, num_inference_steps=steps, guidance_scale=1.0, width=side, height=side, generator=generators
        ).images
        for image in images:
            encoded(image)

    def work(_: int) -> float:
        arrived: list[float] = []

        def first_step(_pipe: Any, _step: int, _timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
            arrived.append(time.perf_counter())
            return kwargs

        generators = [torch.Generator("cpu").manual_seed(seed) for seed in range(OTHERS)]
        pipe(
            [f"a lake, {seed}" for seed in range(OTHERS)],
            num_inference_steps=long,
            guidance_scale=1.0,
            width=side,
            height=side,
            generator=generators,
            callback_on_step_end=first_step,
        )
        draw(["a red star"], short)
        return time.perf_counter() - arrived[0]

    return work


def joining(checkpoint: str, dtype: str, side: int) -> Work:
    """Return `join` with a new engine."""
    return join(load_engine(checkpoint, dtype), side)


def join(running: Any, side: int, long: int = LONG, short: int = SHORT) -> Work:
    """Return work of the engine: a short request joins long requests after their first step."""
    from imagegen_core import StepDone

    def work(number: int) -> float:
        others = [
            running.submit(request) for request in islice(requests(side, number, num_inference_steps=long), OTHERS)
        ]
        next(event for event in others[0].events if isinstance(event, StepDone))
        began = time.perf_counter()
        running.submit(next(requests(side, number, num_inference_steps=short))).result()
        seconds = time.perf_counter() - began
        for ticket in others:
            ticket.cancel()
        return seconds

    return work


def overhead(checkpoint: str, side: int, rounds: int) -> list[float]:
    """Return ratios of the engine's time for a picture to the time of a bare loop of steps on the same worker."""
    from imagegen_core import Job

    running = load_engine(checkpoint, "fp32")
    worker = running._worker

    def bare(request: Any) -> None:
        state = worker.begin(Job(req=request))
        while state.steps_left:
            worker.step([state])
        worker.finish(state)()

    return ratios(
        (lambda request: running.submit(request).result(), lambda request: worker._compute.run(bare, request)),
        requests(side, 0),
        rounds,
    )


def exactness(checkpoint: str, side: int, rounds: int) -> list[float]:
    """Return ratios of the time of an exact step of eight rows to the time of an inexact step, in turn."""
    import torch

    from imagegen_core import Job, Settings, load_worker
    from imagegen_core.diffusion.batch_invariance import RowwiseConv2d, RowwiseLinear

    worker = load_worker(settings=Settings.load(environ={}, model=checkpoint, device="cpu", dtype="fp32"))
    exact = {module: type(module) for module in worker.pipe.unet.modules()}
    inexact = {RowwiseConv2d: torch.nn.Conv2d, RowwiseLinear: torch.nn.Linear}

    def choose(kinds: dict[type, type]) -> None:
        for module, kind in exact.items():
            module.__class__ = kinds.get(kind, kind)

    def states() -> Iterator[Any]:
        pending = requests(side, 0, num_inference_steps=4)
        while True:
            yield [worker.begin(Job(req=next(pending))) for _ in range(8)]

    results = []
    for _, batch in zip(range(rounds + 2), states(), strict=False):
        times = []
        for kinds in ({}, inexact):
            choose(kinds)
            began = time.perf_counter()
            worker.step(batch)
            times.append(time.perf_counter() - began)
        results.append(times[0] / times[1])
    return results[2:]


def ratios(
    both: tuple[Callable[[Any], Any], Callable[[Any], Any]], arguments: Iterator[Any], rounds: int
) -> list[float]:
    """Return ratios of the first function's time to the second function's, with a new request for each call."""
    results = []
    for _ in range(rounds + 2):
        times = []
        for run in both:
            argument = next(arguments)
            began = time.perf_counter()
            run(argument)
            times.append(time.perf_counter() - began)
        results.append(times[0] / times[1])
    return results[2:]


def over(numerator: list[float], denominator: list[float]) -> list[float]:
    """Return ratios, round by round."""
    return [above / below for above, below in zip(numerator, denominator, strict=True)]


def main() -> None:
    """Run the measurements, print the table and draw the chart."""
    import imagegen_demo
    from tests.checkpoints import save_sdxl

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--chart", type=Path, help="the path of an SVG chart to write")
    options = parser.parse_args()
    demo = str(Path(imagegen_demo.__file__).parent / "checkpoint")
    rows: list[tuple[str, str, list[float], str]] = []
    with tempfile.TemporaryDirectory() as folder:
        tiny = str(save_sdxl(Path(folder) / "tiny"))
        for name, checkpoint, side in (("demo, 256 px", demo, 256), ("tiny SDXL, 512 px", tiny, 512)):
            single: dict[str, Side] = {
                "plain": (plain, (checkpoint, "fp32", side, 1)),
                "engine": (engine, (checkpoint, "fp32", side, 1, 1)),
            }
            seconds = take_turns(single, 3 * options.rounds)
            rows.append(("one request, time, fp32", name, over(seconds["engine"], seconds["plain"]), "at most 0.95"))
    for dtype, side, target in (
        ("fp32", 128, "at least 3"),
        ("bf16", 128, "at least 3"),
        ("fp32", 256, "at least 1.15"),
        ("bf16", 256, "at least 1.15"),
        (None, 256, "at least 1.5"),
    ):
        many: dict[str, Side] = {
            "plain": (plain, (demo, dtype, side, PICTURES)),
            "engine": (engine, (demo, dtype, side, PICTURES, CLIENTS)),
        }
        seconds = take_turns(many, options.rounds)
        measure = f"{CLIENTS} clients, pictures a second, {dtype or 'defaults'}"
        rows.append((measure, f"demo, {side} px", over(seconds["plain"], seconds["engine"]), target))
    for side in (128, 256):
        joined: dict[str, Side] = {
            "whole": (whole_batches, (demo, "fp32", side)),
            "engine": (joining, (demo, "fp32", side)),
        }
        seconds = take_turns(joined, options.rounds)
        measure = f"{SHORT} steps that join {OTHERS} requests of {LONG}, time"
        rows.append((measure, f"demo, {side} px", over(seconds["engine"], seconds["whole"]), "at most 0.3"))
    for side in (128, 256):
        bare, inexact = (function(demo, side, 8 * options.rounds) for function in (overhead, exactness))
        rows.append(("one request, over a bare loop of steps", f"demo, {side} px", bare, "at most 1.03"))
        rows.append(("exactness, a step of eight", f"demo, {side} px", inexact, "at most 1.05"))
    show(
        ["measure", "on", "ratio", "target"],
        [[measure, on, spread(values), target] for measure, on, values, target in rows],
    )
    if options.chart:
        chart(options.chart, [(f"{measure}, {on}", values) for measure, on, values, _ in rows])


if __name__ == "__main__":
    main()
