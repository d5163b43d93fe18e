"""`run_job` and `run_job_with_latents` against the plain diffusers pipeline plus PNG encoding, in turn.

Each side runs in a process of its own, since a worker changes how its process allocates memory; while one draws,
the others wait. All use the same checkpoint, seeds, prompt, precision and number of threads.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from figures import show, spread

PROMPT = "a majestic mountain landscape at sunset"
Draw = Callable[[int], Any]


def plain_pipeline(checkpoint: str, dtype: str, size: str) -> Draw:
    """The pipeline as diffusers' documentation runs it, and Pillow's PNG."""
    import diffusers
    import torch

    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(
        checkpoint, dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[dtype], local_files_only=True
    )
    pipe.scheduler = diffusers.LCMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    width, height = map(int, size.split("x"))

    def draw(seed: int) -> bytes:
        image = pipe(
            f"{PROMPT}, take {seed}",
            num_inference_steps=4,
            guidance_scale=1.0,
            width=width,
            height=height,
            generator=torch.Generator("cpu").manual_seed(seed),
        ).images[0]
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        return buffer.getvalue()

    return draw


def worker(checkpoint: str, dtype: str, size: str, method: str, prompts: str) -> Draw:
    """Our worker; `prompts` are ``new`` each time, or the ``same``, whose embedding is remembered."""
    from imagegen_core import GenerateRequest, Job, Settings, load_worker

    loaded = load_worker(settings=Settings.load(environ={}, model=checkpoint, dtype=dtype, device="cpu"))
    run = getattr(loaded, method)

    def draw(seed: int) -> Any:
        prompt = f"{PROMPT}, take {seed if prompts == 'new' else 0}"
        return run(Job(req=GenerateRequest(prompt=prompt, size=size, seed=seed)))

    return draw


def serve(connection: Connection, make: Callable[..., Draw], arguments: tuple[str, ...]) -> None:
    """In a child: draw each seed that comes, and answer with the seconds it took."""
    draw = make(*arguments)
    draw(0)
    draw(1)
    connection.send(0.0)
    while (seed := connection.recv()) is not None:
        started = time.perf_counter()
        draw(seed)
        connection.send(time.perf_counter() - started)


def compare(checkpoint: str, dtype: str, size: str, rounds: int) -> dict[str, list[float]]:
    """Seconds a picture of each side, drawn in turn."""
    sides: dict[str, tuple[Callable[..., Draw], tuple[str, ...]]] = {
        "plain": (plain_pipeline, (checkpoint, dtype, size)),
        "run_job": (worker, (checkpoint, dtype, size, "run_job", "same")),
        "run_job, new prompts": (worker, (checkpoint, dtype, size, "run_job", "new")),
        "run_job_with_latents": (worker, (checkpoint, dtype, size, "run_job_with_latents", "same")),
    }
    context = multiprocessing.get_context("spawn")
    lines: dict[str, Connection] = {}
    for name, (make, arguments) in sides.items():
        ours, theirs = context.Pipe()
        context.Process(target=serve, args=(theirs, make, arguments), daemon=True).start()
        ours.recv()
        lines[name] = ours
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for seed in range(rounds):
        for name, line in lines.items():
            line.send(seed)
            seconds[name].append(line.recv())
    for line in lines.values():
        line.send(None)
    return seconds


def main() -> None:
    """Measure and print."""
    import imagegen_demo

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default=str(Path(imagegen_demo.__file__).parent / "checkpoint"))
    parser.add_argument("--sizes", nargs="+", default=["256x256", "512x512"])
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=25)
    options = parser.parse_args()
    rows = []
    for size in options.sizes:
        for dtype in options.dtypes:
            seconds = compare(options.checkpoint, dtype, size, options.rounds)
            ratios = {
                name: [one / plain for one, plain in zip(taken, seconds["plain"], strict=True)]
                for name, taken in seconds.items()
            }
            ours = [name for name in ratios if name != "plain"]
            rows.append([f"{size} {dtype}", spread(seconds["plain"], 3), *(spread(ratios[name]) for name in ours)])
    show(["picture", "plain pipeline + PNG, s", *(f"{name}, ratio" for name in ours)], rows)


if __name__ == "__main__":
    main()
