"""Compare switches between two LoRAs with the plain pipeline's loading and with a denoising step.

``--full`` uses a random Stable Diffusion 1.5 of the full size, at 512 px in bf16, instead of the demo.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from figures import show, spread

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))


def timed(run: Callable[[], object]) -> float:
    """Return the milliseconds of a call."""
    started = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - started)


def save_full_size(folder: Path) -> Path:
    """Save a random Stable Diffusion 1.5 in bf16, with the demo's tokenizer."""
    import json

    import diffusers
    import torch
    import transformers

    torch.manual_seed(0)
    shutil.copytree(ROOT / "src/imagegen_sd15/configs", folder, ignore=shutil.ignore_patterns("sd2"))
    shutil.copytree(ROOT / "src/imagegen_demo/checkpoint/tokenizer", folder / "tokenizer")
    torch.set_default_dtype(torch.bfloat16)
    for name, class_name in (("unet", "UNet2DConditionModel"), ("vae", "AutoencoderKL")):
        config = json.loads((folder / name / "config.json").read_text())
        getattr(diffusers, class_name).from_config(config).save_pretrained(folder / name)
    config = json.loads((folder / "text_encoder/config.json").read_text())
    transformers.CLIPTextModel(transformers.CLIPTextConfig(**config)).save_pretrained(folder / "text_encoder")
    torch.set_default_dtype(torch.float32)
    return folder


def main() -> None:
    """Run the measurements and print the tables."""
    import diffusers
    import torch

    from imagegen_core import GenerateRequest, Job, Settings, StyleLoraRequest, load_worker
    from imagegen_demo.plugin import CHECKPOINT
    from tests.loras import as_diffusers, random_lora, save

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--full", action="store_true")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        checkpoint = save_full_size(Path(name) / "full") if options.full else CHECKPOINT
        dtype, size = ("bf16", "512x512") if options.full else ("fp32", "256x256")
        pipeline = diffusers.StableDiffusionPipeline if options.full else diffusers.StableDiffusionXLPipeline

        def load(**more: Any) -> Any:
            more |= {"safety_checker": None} if options.full else {}
            return pipeline.from_pretrained(checkpoint, local_files_only=True, **more)

        files = [
            save(as_diffusers(random_lora(load(), seed)), Path(name) / f"loras/s{seed}.safetensors")
            for seed in range(2)
        ]
        settings = Settings(model=str(checkpoint), device="cpu", dtype=dtype, lora_root=Path(name) / "loras")
        worker = load_worker(settings=settings)
        plain = load(dtype=torch.bfloat16 if options.full else torch.float32)

        def job(style: str | None) -> Job:
            style_lora = StyleLoraRequest(style=style, level=3)
            return Job(req=GenerateRequest(prompt="a lake", size=size, num_inference_steps=50, style_lora=style_lora))

        def theirs(turn: int) -> None:
            plain.unload_lora_weights()
            plain.load_lora_weights(files[turn % 2], adapter_name="style")
            plain.set_adapters(["style"], [1.0])

        states = [worker.begin(job(f"s{turn}")) for turn in range(2)]
        bare = worker.begin(job(None))
        adapters = worker._adapters
        figures = []
        for turn in range(options.rounds + 1):
            state = states[turn % 2]
            figures.append(
                (
                    timed(lambda turn=turn: theirs(turn)),
                    timed(lambda state=state: adapters.use(state.adapters)),
                    timed(lambda state=state: worker.step([state])),
                    timed(lambda: worker.step([bare])),
                )
            )
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
