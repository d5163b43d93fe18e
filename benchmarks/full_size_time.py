"""Split the time of a full-size picture on a CPU into parts and operators, with and without the layers for a CPU."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

from figures import show

from imagegen_core import GenerateRequest, Job, Settings, load_worker

KINDS = {
    "convolutions": ("mkldnn_convolution", "qconv2d_pointwise"),
    "linear layers": ("aten::addmm", "aten::mm"),
    "attention": ("scaled_dot_product", "_linear_pointwise", "_reorder_linear_weight", "aten::bmm"),
    "norms and SiLU, GELU": ("norm", "silu", "gelu"),
}
VARIANTS = ("before", "now", "int8")
LAYERS = "imagegen_core.diffusion.pipeline_setup.use_cpu_layers"


def load(model: str, variant: str) -> Any:
    """Load a worker; the variant ``before`` keeps diffusers' layers."""
    settings = Settings(model=model, device="cpu", recipe=False, int8=variant == "int8")
    if variant != "before":
        return load_worker(settings=settings)
    with patch(LAYERS, lambda *_, **__: None):
        return load_worker(settings=settings)


def picture(worker: Any, size: str, steps: int) -> dict[str, float]:
    """Draw a picture, and return the seconds of its parts."""
    began = time.perf_counter()
    request = GenerateRequest(prompt="a lighthouse", size=size, seed=1, num_inference_steps=steps)
    state = worker.begin(Job(req=request))
    stepping = time.perf_counter()
    while state.steps_left:
        worker.step([state])
    decoding = time.perf_counter()
    encode = worker.finish(state)
    encoding = time.perf_counter()
    encode()
    ended = time.perf_counter()
    return {
        "the prompt": stepping - began,
        "a step": (decoding - stepping) / steps,
        "decoding": encoding - decoding,
        "the PNG": ended - encoding,
        "the picture": ended - began,
    }


def operators(worker: Any, size: str) -> dict[str, dict[str, float]]:
    """Return the milliseconds of each kind of operator, in a step and in decoding."""
    from torch.profiler import ProfilerActivity, profile

    state = worker.begin(Job(req=GenerateRequest(prompt="a lighthouse", size=size, seed=1)))

    def profiled(work: Any) -> dict[str, float]:
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            work()
        found = dict.fromkeys([*KINDS, "all else"], 0.0)
        for row in profiler.key_averages():
            kind = next((kind for kind, names in KINDS.items() if any(name in row.key for name in names)), "all else")
            found[kind] += row.self_cpu_time_total / 1000
        return found

    run = worker._compute.run  # the profiler records only its own thread
    return {
        "step": run(profiled, lambda: worker.step([state])),
        "decoding": run(profiled, lambda: worker.finish(state)),
    }


def main() -> None:
    """Run the measurements and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a full-size checkpoint, such as one with random weights")
    parser.add_argument("--size", default="512x512")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    options = parser.parse_args()
    workers = {variant: load(str(options.model), variant) for variant in options.variants}
    rounds = [
        {variant: picture(worker, options.size, options.steps) for variant, worker in workers.items()}
        for _ in range(options.rounds + 1)
    ][1:]  # the first one fills caches
    rows = []
    for part in rounds[0][options.variants[0]]:
        for variant in options.variants:
            seconds = [measured[variant][part] for measured in rounds]
            rows.append([part, variant, f"{median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"])
    show(["part", "layers", "seconds"], rows)
    found = {variant: operators(worker, options.size) for variant, worker in workers.items()}
    show(
        ["of", "operators", *options.variants],
        [
            [of, kind, *(f"{found[variant][of][kind]:.0f} ms" for variant in options.variants)]
            for of in ("step", "decoding")
            for kind in found[options.variants[0]][of]
        ],
    )


if __name__ == "__main__":
    main()
