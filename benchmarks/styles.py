"""Compare switches between two LoRAs with the plain pipeline's loading and with a denoising step.

``--full`` uses a random Stable Diffusion 1.5 of the full size, at 512 px in bf16, instead of the demo.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from figures import show, spread
from full_size_checkpoints import save_random
from plain_pipeline import plain_pipeline

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))


def timed(run: Callable[[], object]) -> float:
    """Return the milliseconds of a call."""
    started = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - started)


def switching(
    checkpoint: str, dtype: str, size: str, folder: str, device: str = "cpu"
) -> Callable[[int], tuple[float, ...]]:
    """Return work that measures one turn in milliseconds.

    Its results are plain diffusers' loading of a LoRA, a switch here, a styled step, and a plain step.

    Args:
        checkpoint: A diffusers-format folder.
        dtype: The precision of both sides.
        size: ``WIDTHxHEIGHT``.
        folder: An empty folder for two LoRAs.
        device: The device of both sides.
    """
    from imagegen_core import GenerateRequest, Job, Settings, StyleLoraRequest, load_worker
    from tests.loras import as_diffusers, random_lora, save

    files = [
        save(as_diffusers(random_lora(plain_pipeline(checkpoint, dtype), seed)), Path(folder) / f"s{seed}.safetensors")
        for seed in range(2)
    ]
    settings = Settings(model=checkpoint, device=device, dtype=dtype, lora_root=Path(folder))
    worker: Any = load_worker(settings=settings)
    plain = plain_pipeline(checkpoint, dtype, device)

    def job(style: str | None) -> Job:
        style_lora = StyleLoraRequest(style=style, level=3)
        return Job(req=GenerateRequest(prompt="a lake", size=size, num_inference_steps=50, style_lora=style_lora))

    def theirs(turn: int) -> None:
        plain.unload_lora_weights()
        plain.load_lora_weights(files[turn % 2], adapter_name="style")
        plain.set_adapters(["style"], [1.0])

    states = [worker.begin(job(f"s{turn}")) for turn in range(2)]
    bare = worker.begin(job(None))

    def work(turn: int) -> tuple[float, ...]:
        state = states[turn % 2]
        return (
            timed(lambda: theirs(turn)),
            timed(lambda: worker._adapters.use(state.adapters)),
            timed(lambda: worker.step([state])),
            timed(lambda: worker.step([bare])),
        )

    return work


def main() -> None:
    """Run the measurements and print the table."""
    import torch

    from imagegen_demo.plugin import CHECKPOINT

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--full", action="store_true")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        full = Path(name) / "full"
        checkpoint = save_random("sd15", full, torch.bfloat16) if options.full else CHECKPOINT
        dtype, size = ("bf16", "512x512") if options.full else ("fp32", "256x256")
        work = switching(str(checkpoint), dtype, size, str(Path(name) / "loras"))
        figures = [work(turn) for turn in range(options.rounds + 1)]
    plain_ms, ours_ms, styled_ms, bare_ms = zip(*figures[1:], strict=True)
    show(
        [
            "load_lora_weights + set_adapters, ms",
            "a switch, ms",
            "the same, in steps",
            "a styled step, its time over a plain one",
        ],
        [
            [
                spread(plain_ms, 0),
                spread(ours_ms, 2),
                spread([ours / step for ours, step in zip(ours_ms, bare_ms, strict=True)], 4),
                spread([styled / step for styled, step in zip(styled_ms, bare_ms, strict=True)]),
            ]
        ],
    )


if __name__ == "__main__":
    main()
