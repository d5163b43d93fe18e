"""The engine against the plain diffusers pipeline, against batching whole requests, and against itself.

Every figure is a ratio of two things measured in turn in one run; `--chart` draws them, for docs/performance.md.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

from figures import chart, show, spread
from sides import Side, Work, take_turns

sys.path.insert(0, str(Path(__file__).parent.parent))

CLIENTS = 16
PICTURES = 32
LONG, SHORT, OTHERS = 30, 4, 8


def plain_pipeline(checkpoint: str, dtype: str | None) -> Any:
    """The pipeline as diffusers' documentation runs LCM models; its default is fp32."""
    import diffusers
    import torch

    load = diffusers.StableDiffusionXLPipeline.from_pretrained
    pipe = load(checkpoint, dtype=torch.bfloat16 if dtype == "bf16" else torch.float32, local_files_only=True)
    pipe.scheduler = diffusers.LCMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _encoded(image: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def plain(checkpoint: str, dtype: str | None, side: int, pictures: int) -> Work:
    """The plain pipeline, a picture after another."""
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
            _encoded(image)

    return work


def engine_of(checkpoint: str, dtype: str | None) -> Any:
    """The engine; without a dtype, with the worker's default."""
    from imagegen_core import LocalEngine, Settings, load_worker

    worker = load_worker(settings=Settings.load(environ={}, model=checkpoint, device="cpu", dtype=dtype))
    return LocalEngine(worker)


def requests(side: int, start: int, **fields: Any) -> Iterator[Any]:
    """Requests for new prompts, without end."""
    from imagegen_core import GenerateRequest

    for seed in count(start):
        prompt = f"a red star on a blue background, take {seed}"
        yield GenerateRequest(**{"prompt": prompt, "size": f"{side}x{side}", "seed": seed, **fields})


def asked_of(running: Any, side: int, pictures: int, clients: int) -> Work:
    """An engine, asked by so many clients, each again as soon as it is answered."""
    from queue import SimpleQueue

    answered: SimpleQueue[Any] = SimpleQueue()

    def ask(request: Any) -> None:
        running.submit(request).job.fut.add_done_callback(answered.put)

    def work(number: int) -> None:
        asked = requests(side, number * pictures)
        for _ in range(clients):
            ask(next(asked))
        for answer in range(pictures):
            answered.get().result()
            if answer < pictures - clients:
                ask(next(asked))

    for warming_up in range(4):
        work(1000 + warming_up)
    return work


def engine(checkpoint: str, dtype: str | None, side: int, pictures: int, clients: int) -> Work:
    """The engine that the worker's defaults give, but for the precision."""
    return asked_of(engine_of(checkpoint, dtype), side, pictures, clients)


def whole_batches(checkpoint: str, dtype: str, side: int) -> Work:
    """Batches of whole requests: who comes when one has begun waits for its end."""
    import torch

    pipe = plain_pipeline(checkpoint, dtype)

    def draw(prompts: list[str], steps: int) -> None:
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in range(len(prompts))]
        images = pipe(
            prompts, num_inference_steps=steps, guidance_scale=1.0, width=side, height=side, generator=generators
        ).images
        for image in images:
            _encoded(image)

    def work(_: int) -> float:
        arrived: list[float] = []

        def first_step(_pipe: Any, _step: int, _timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
            arrived.append(time.perf_counter())
            return kwargs

        generators = [torch.Generator("cpu").manual_seed(seed) for seed in range(OTHERS)]
        pipe(
            [f"a lake, {seed}" for seed in range(OTHERS)],
            num_inference_steps=LONG,
            guidance_scale=1.0,
            width=side,
            height=side,
            generator=generators,
            callback_on_step_end=first_step,
        )
        draw(["a red star"], SHORT)
        return time.perf_counter() - arrived[0]

    return work


def joining(checkpoint: str, dtype: str, side: int) -> Work:
    """The engine, with a short request that joins long ones after their first step."""
    from imagegen_core import StepDone

    running = engine_of(checkpoint, dtype)

    def work(number: int) -> float:
        long = [running.submit(request) for request in islice(requests(side, number, num_inference_steps=LONG), OTHERS)]
        next(event for event in long[0].events if isinstance(event, StepDone))
        began = time.perf_counter()
        running.submit(next(requests(side, number, num_inference_steps=SHORT))).result()
        taken = time.perf_counter() - began
        for ticket in long:
            ticket.cancel()
        return taken

    return work


def overhead(checkpoint: str, side: int, rounds: int) -> list[float]:
    """The engine's time for one picture over that of a bare loop of steps on the same worker, in turn."""
    from imagegen_core import Job

    running = engine_of(checkpoint, "fp32")
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
    """A step of eight whose layers compute row by row where it matters, over one whose layers do not, in turn."""
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
        asked = requests(side, 0, num_inference_steps=4)
        while True:
            yield [worker.begin(Job(req=next(asked))) for _ in range(8)]

    taken = []
    for _, some in zip(range(rounds + 2), states(), strict=False):
        times = []
        for kinds in ({}, inexact):
            choose(kinds)
            began = time.perf_counter()
            worker.step(some)
            times.append(time.perf_counter() - began)
        taken.append(times[0] / times[1])
    return taken[2:]


def ratios(both: tuple[Callable[[Any], Any], Callable[[Any], Any]], given: Iterator[Any], rounds: int) -> list[float]:
    """The time of the first over that of the second, each round with something new."""
    taken = []
    for _ in range(rounds + 2):
        times = []
        for run in both:
            one = next(given)
            began = time.perf_counter()
            run(one)
            times.append(time.perf_counter() - began)
        taken.append(times[0] / times[1])
    return taken[2:]


def over(numerator: list[float], denominator: list[float]) -> list[float]:
    """Ratios, round by round."""
    return [one / other for one, other in zip(numerator, denominator, strict=True)]


def main() -> None:
    """Measure, print, draw."""
    import imagegen_demo
    from tests.checkpoints import save_sdxl

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--chart", type=Path, help="an SVG to draw the figures into")
    options = parser.parse_args()
    demo = str(Path(imagegen_demo.__file__).parent / "checkpoint")
    rows: list[tuple[str, str, list[float], str]] = []
    with tempfile.TemporaryDirectory() as folder:
        tiny = str(save_sdxl(Path(folder) / "tiny"))
        for name, checkpoint, side in (("demo, 256 px", demo, 256), ("tiny SDXL, 512 px", tiny, 512)):
            one: dict[str, Side] = {
                "plain": (plain, (checkpoint, "fp32", side, 1)),
                "engine": (engine, (checkpoint, "fp32", side, 1, 1)),
            }
            taken = take_turns(one, 3 * options.rounds)
            rows.append(("one request, time, fp32", name, over(taken["engine"], taken["plain"]), "at most 0.95"))
    for dtype, side, aim in (
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
        taken = take_turns(many, options.rounds)
        what = f"{CLIENTS} clients, pictures a second, {dtype or 'defaults'}"
        rows.append((what, f"demo, {side} px", over(taken["plain"], taken["engine"]), aim))
    for side in (128, 256):
        join: dict[str, Side] = {
            "whole": (whole_batches, (demo, "fp32", side)),
            "engine": (joining, (demo, "fp32", side)),
        }
        taken = take_turns(join, options.rounds)
        what = f"{SHORT} steps that join {OTHERS} requests of {LONG}, time"
        rows.append((what, f"demo, {side} px", over(taken["engine"], taken["whole"]), "at most 0.3"))
    for side in (128, 256):
        bare, inexact = (measured(demo, side, 8 * options.rounds) for measured in (overhead, exactness))
        rows.append(("one request, over a bare loop of steps", f"demo, {side} px", bare, "at most 1.03"))
        rows.append(("exactness, a step of eight", f"demo, {side} px", inexact, "at most 1.05"))
    show(["what", "on", "ratio", "to reach"], [[what, on, spread(values), aim] for what, on, values, aim in rows])
    if options.chart:
        chart(options.chart, [(f"{what}, {on}", values) for what, on, values, _ in rows])


if __name__ == "__main__":
    main()
