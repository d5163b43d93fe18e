"""Draw the held-out prompts with the plain diffusers pipeline, count the right properties, and write a contact sheet.

Run from the repository root: ``python -m training.evaluate CHECKPOINT --sheet SHEET.png``.
"""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image

from training.judge import HELD_OUT, judge

logger = logging.getLogger(__name__)

VIEWS = (
    "a majestic mountain landscape at sunset",
    "mountains at noon with a lake",
    "a mountain landscape at night",
    "a mountain landscape at dawn covered in snow",
    "the sea at sunset",
    "a desert landscape at noon",
    "a city skyline at night",
    "a pine forest at noon",
    "a red house on a hill at sunset",
    "a sailboat with white sails on the water at noon",
    "a purple flower in a meadow at dawn",
    "a pink tree at noon",
)
TILE = 160
COLUMNS = 12


def sheet(images: list[Image.Image]) -> Image.Image:
    """Return all pictures in rows."""
    rows = -(-len(images) // COLUMNS)
    page = Image.new("RGB", (COLUMNS * TILE, rows * TILE))
    for index, image in enumerate(images):
        page.paste(image.resize((TILE, TILE)), (index % COLUMNS * TILE, index // COLUMNS * TILE))
    return page


def main() -> None:
    """Draw and judge the pictures, and report the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--sheet", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1000)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    pipeline = StableDiffusionXLPipeline.from_pretrained(options.checkpoint, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)

    def draw(prompt: str, seed: int) -> Image.Image:
        generator = torch.Generator().manual_seed(seed)
        return pipeline(prompt, num_inference_steps=4, guidance_scale=1.0, generator=generator).images[0]

    images = [draw(prompt, options.seed) for prompt in VIEWS]
    totals: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for index, expected in enumerate(HELD_OUT):
        images.append(draw(expected.prompt, options.seed + index))
        verdict = judge(images[-1], expected)
        verdict["all but shape"] = all(good for name, good in verdict.items() if name != "shape")
        for name, good in verdict.items():
            totals[name] += 1
            right[name] += good
            if not good and name != "all but shape":
                logger.info("wrong %s: %s", name, expected.prompt)
    for name, count in totals.items():
        logger.info("%-14s %d of %d", name, right[name], count)
    sheet(images).save(options.sheet)


if __name__ == "__main__":
    main()
