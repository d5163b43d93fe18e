"""Switching between two LoRAs against the plain pipeline's loading of them, and against a denoising step."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from figures import show, spread

sys.path.insert(0, str(Path(__file__).parent.parent))


def timed(run: Callable[[], object]) -> float:
    """Milliseconds it takes."""
    started = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - started)


def main() -> None:
    """Measure and print."""
    import diffusers
    import torch

    from imagegen_core import GenerateRequest, Job, Settings, StyleLoraRequest, load_worker
    from imagegen_demo.plugin import CHECKPOINT
    from tests.loras import as_diffusers, random_lora, save

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    rounds = parser.parse_args().rounds

    def load() -> diffusers.StableDiffusionXLPipeline:
        return diffusers.StableDiffusionXLPipeline.from_pretrained(CHECKPOINT, local_files_only=True)

    with tempfile.TemporaryDirectory() as name:
        files = [
            save(as_diffusers(random_lora(load(), seed)), Path(name) / f"s{seed}.safetensors") for seed in range(2)
        ]
        worker = load_worker(settings=Settings(model="demo", device="cpu", dtype="fp32", lora_root=Path(name)))
        plain = load()

        def job(turn: int) -> Job:
            return Job(req=GenerateRequest(prompt="a lake", style_lora=StyleLoraRequest(style=f"s{turn % 2}", level=3)))

        def theirs(turn: int) -> None:
            plain.unload_lora_weights()
            plain.load_lora_weights(files[turn % 2], adapter_name="style")
            plain.set_adapters(["style"], [1.0])

        states = [worker.begin(job(turn)) for turn in range(2)]
        adapters = worker._adapters
        with torch.inference_mode():
            figures = [
                (
                    timed(lambda turn=turn: theirs(turn)),
                    timed(lambda turn=turn: adapters.use(states[turn % 2].adapters)),
                    timed(lambda turn=turn: worker.step([worker.begin(job(turn))])),
                )
                for turn in range(rounds + 1)
            ][1:]
    plain_ms, ours_ms, step_ms = zip(*figures, strict=True)
    show(
        ["load_lora_weights + set_adapters, ms", "a switch, ms", "of the former", "of a step, with its begin"],
        [
            [
                spread(plain_ms, 1),
                spread(ours_ms, 1),
                spread([ours / theirs for theirs, ours in zip(plain_ms, ours_ms, strict=True)], 3),
                spread([ours / step for step, ours in zip(step_ms, ours_ms, strict=True)], 3),
            ]
        ],
    )


if __name__ == "__main__":
    main()
