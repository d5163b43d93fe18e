"""Draw scenes and encode them once, so that UNet training reads latents and needs no VAE.

Run from the repository root: ``python -m training.latents OUT.pt --checkpoint FOLDER --count 6000``.
"""

from __future__ import annotations

import argparse
import logging
import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from training.scenes import Scene, random_scene, render
from training.scenes.storybook import storybook

logger = logging.getLogger(__name__)

AT_ONCE = 40


def draw(count: int, seed: int, *, styled: bool) -> tuple[list[Scene], torch.Tensor]:
    """Return `count` scenes that are not held out, and their pixels, uint8 [count, 3, 256, 256]."""
    rng = random.Random(seed)
    scenes = [random_scene(rng) for _ in range(count)]
    rendered = [render(scene, rng) for scene in scenes]
    pixels = [torch.tensor(storybook(picture) if styled else picture).permute(2, 0, 1) for picture in rendered]
    return scenes, torch.stack(pixels)


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: torch.Tensor, side: int) -> torch.Tensor:
    """Return the scaled posterior means of uint8 `pixels` [N, 3, 256, 256] at `side` pixels.

    The means are fp16 [N, 4, side/8, side/8].
    """
    pictures = torch.nn.functional.adaptive_avg_pool2d(pixels.float() / 127.5 - 1, side)
    means = vae.encode(pictures.contiguous(memory_format=torch.channels_last)).latent_dist.mean
    return (means * vae.config.scaling_factor).half().contiguous()


def main() -> None:
    """Write scenes and latents."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--checkpoint", type=Path, required=True, help="diffusers folder whose VAE encodes")
    parser.add_argument("--count", type=int, default=6000)
    parser.add_argument(
        "--side", type=int, default=256, help="pixels; the same scenes at 128 train three times as fast"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--styled", action="store_true", help="in the look of the storybook style")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    vae = AutoencoderKL.from_pretrained(options.checkpoint, subfolder="vae", torch_dtype=torch.float32).eval()
    vae.to(memory_format=torch.channels_last)
    scenes: list[Scene] = []
    latents: list[torch.Tensor] = []
    for start in range(0, options.count, AT_ONCE):
        drawn, pixels = draw(
            min(AT_ONCE, options.count - start), options.seed * 1_000_003 + start, styled=options.styled
        )
        scenes += drawn
        latents += [encode(vae, part, options.side) for part in pixels.split(8)]
        if start % 400 == 0:
            logger.info("%d scenes", len(scenes))
    torch.save({"scenes": scenes, "latents": torch.cat(latents)}, options.out)


if __name__ == "__main__":
    main()
