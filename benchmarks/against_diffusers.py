"""Compare `run_job` and `run_job_with_latents` with the plain diffusers pipeline plus PNG encoding, in turn.

All sides use the same checkpoint, seeds, prompt, precision and number of threads.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from figures import show, spread
from plain_pipeline import encoded
from plain_pipeline import plain_pipeline as load_plain
from sides import Side, Work, take_turns

PROMPT = "a majestic mountain landscape at sunset"


def plain_pipeline(checkpoint: str, dtype: str, size: str) -> Work:
    """Return the pipeline of diffusers' documentation with Pillow's PNG encoder."""
    import torch

    pipe = load_plain(checkpoint, dtype)
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
        return encoded(image)

    return draw


def worker(checkpoint: str, dtype: str, size: str, method: str, prompts: str) -> Work:
    """Return our worker; `prompts` is ``new``, or ``same`` to use the cached embedding."""
    from imagegen_core import GenerateRequest, Job, Settings, load_worker

    loaded = load_worker(settings=Settings.load(environ={}, model=checkpoint, dtype=dtype, device="cpu"))
    run = getattr(loaded, method)

    def draw(seed: int) -> Any:
        prompt = f"{PROMPT}, take {seed if prompts == 'new' else 0}"
        return run(Job(req=GenerateRequest(prompt=prompt, size=size, seed=seed)))

    return draw


def compare(checkpoint: str, dtype: str, size: str, rounds: int) -> dict[str, list[float]]:
    """Return the seconds for a picture of each side, drawn in turn."""
    sides: dict[str, Side] = {
        "plain": (plain_pipeline, (checkpoint, dtype, size)),
        "run_job": (worker, (checkpoint, dtype, size, "run_job", "same")),
        "run_job, new prompts": (worker, (checkpoint, dtype, size, "run_job", "new")),
        "run_job_with_latents": (worker, (checkpoint, dtype, size, "run_job_with_latents", "same")),
    }
    return take_turns(sides, rounds)


def main() -> None:
    """Run the measurements and print the tables."""
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
                name: [own / plain for own, plain in zip(times, seconds["plain"], strict=True)]
                for name, times in seconds.items()
            }
            ours = [name for name in ratios if name != "plain"]
            rows.append([f"{size} {dtype}", spread(seconds["plain"], 3), *(spread(ratios[name]) for name in ours)])
    show(["picture", "plain pipeline + PNG, s", *(f"{name}, ratio" for name in ours)], rows)


if __name__ == "__main__":
    main()
