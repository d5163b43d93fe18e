"""Train the autoencoder from scratch, and write it with untrained networks: the folder where training starts.

Run from the repository root: ``python -m training.train_vae START --minutes 20``.
"""

from __future__ import annotations

import argparse
import logging
import math
import random
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from training.networks import new_pipeline, new_vae
from training.scenes import random_scene, render
from training.scenes.collage import collage
from training.tokenizer import build_tokenizer

logger = logging.getLogger(__name__)

LEARNING_RATE = 2e-3
KL_WEIGHT = 3e-5
PICTURES = 1500
"""Number of scenes, and of collages, for crops."""
DECODER_FROM = 0.9
"""Share of the time after which only the decoder learns, from slightly wrong latents like a sampler's."""
DECODER_NOISE = 0.08
_CONSTANT = 3.0
_CONSTANT_CHANNEL = 3
_RGB = [0, 1, 2]


def linear_start(vae: AutoencoderKL) -> None:
    """Start as a nearly linear colour autoencoder; a random start needs a thousand steps to learn flat colours.

    RGB goes down by averaging and up by repetition along the skip paths. The residual branches are nearly off. Each of
    the two groups of every GroupNorm holds a constant channel, so that norms preserve flat colours.
    """
    for name, layer in vae.named_modules():
        if not isinstance(layer, torch.nn.Conv2d):
            continue
        width = layer.out_channels
        _start_layer(name, layer, constants=[_CONSTANT_CHANNEL, width // 2 + _CONSTANT_CHANNEL])


def _start_layer(name: str, layer: torch.nn.Conv2d, constants: list[int]) -> None:
    weight, bias = layer.weight.data, layer.bias.data
    through = list(range(min(layer.in_channels, layer.out_channels)))
    cleared = [*range(5), constants[1]]
    kind = name.rsplit(".", 1)[-1]
    if kind == "conv1":
        bias[constants] = _CONSTANT
    elif kind == "conv2":
        weight.mul_(0.1)
        bias.zero_()
    elif kind == "conv_shortcut":
        weight.mul_(0.3)
        bias.zero_()
        weight[cleared] = 0
        weight[through, through, 0, 0] = 1
        weight[constants[1]] = 0
        bias[constants[1]] = _CONSTANT
    elif kind == "conv":  # of a downsampler or an upsampler
        weight.mul_(0.1)
        bias.zero_()
        weight[:5] = 0
        rows, gain = (slice(0, 2), 0.25) if "downsamplers" in name else (slice(1, 2), 1.0)
        weight[through, through, rows, rows] = gain
    elif kind in ("quant_conv", "post_quant_conv"):
        weight.zero_()
        bias.zero_()
        weight[through, through, 0, 0] = 1
    else:
        _start_end(name, weight, bias, constants, cleared)


def _start_end(name: str, weight: Tensor, bias: Tensor, constants: list[int], cleared: list[int]) -> None:
    """Start the first and last layers of encoder and decoder, which carry RGB and a fourth channel between them."""
    if name == "encoder.conv_in":
        weight[[0, 1, 2, *constants]] = 0
        weight[_RGB, _RGB, 1, 1] = 1
        bias[_RGB] = 0
        bias[constants] = _CONSTANT
    elif name == "encoder.conv_out":
        weight.mul_(0.3)
        weight[[0, 1, 2, 4, 5, 6, 7]] = 0
        weight[_RGB, _RGB, 1, 1] = 4
        bias[4:] = -2  # a small variance
    elif name == "decoder.conv_in":
        weight.mul_(0.3)
        bias.zero_()
        weight[cleared] = 0
        weight[[0, 1, 2, 4], range(4), 1, 1] = 0.5
        bias[constants] = _CONSTANT
    elif name == "decoder.conv_out":
        weight.mul_(0.2)
        weight[_RGB, _RGB, 1, 1] = 1.5


class Crops:
    """Random crops of drawn pictures: mostly small crops of collages at first, mostly whole scenes at the end."""

    def __init__(self, seed: int) -> None:
        """Draw the pictures."""
        self.rng = random.Random(seed)
        self.scenes = [_pixels(render(random_scene(self.rng), self.rng)) for _ in range(PICTURES)]
        self.collages = [_pixels(collage(self.rng)) for _ in range(PICTURES)]

    def batch(self, share: float) -> Tensor:
        """Return crops for the finished `share` of training, [N, 3, side, side] in [-1, 1]."""
        count, side = (6, 64) if share < 0.55 else (2, 128) if share < 0.8 else (1, 256)
        collages = 0.7 if share < 0.3 else 0.4 if share < 0.6 else 0.15
        crops = [self._crop(side, self.rng.random() < collages) for _ in range(count)]
        return (torch.stack(crops).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)

    def _crop(self, side: int, from_collage: bool) -> Tensor:
        picture = self.rng.choice(self.collages if from_collage else self.scenes)
        top, left = (self.rng.randint(0, 256 - side) for _ in range(2))
        return picture[:, top : top + side, left : left + side]


def _pixels(picture: object) -> Tensor:
    return torch.tensor(picture).permute(2, 0, 1)


def train(vae: AutoencoderKL, batch: Callable[[float], Tensor], minutes: float) -> None:
    """Minimize the L1 error of pixels and of their gradients, with a small KL term."""
    vae.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0)
    began, step, average = time.process_time(), 0, 0.0
    while (share := (time.process_time() - began) / (60 * minutes)) < 1:
        decoder_only = share > DECODER_FROM
        vae.encoder.requires_grad_(not decoder_only)
        vae.quant_conv.requires_grad_(not decoder_only)
        cosine = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / 50) * cosine
        pixels = batch(share)
        posterior = vae.encode(pixels).latent_dist
        latents = (
            posterior.mean + DECODER_NOISE * torch.randn_like(posterior.mean) if decoder_only else posterior.sample()
        )
        error = vae.decode(latents).sample - pixels
        edges = error.diff(dim=3).abs().mean() + error.diff(dim=2).abs().mean()
        loss = error.abs().mean() + 0.5 * edges + KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        step += 1
        average += (error.abs().mean().item() - average) * (0.02 if step > 1 else 1.0)
        if step % 100 == 0:
            logger.info("step %d, %.0f %%, L1 %.4f", step, 100 * share, average)


@torch.no_grad()
def normalize(vae: AutoencoderKL, pixels: Tensor) -> None:
    """Fold shift and scale into the 1x1 convolutions, so that latents have zero mean and unit variance."""
    latents = vae.encode(pixels).latent_dist.mean
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    std = std.clamp_min(0.5 * std.mean())  # limit the gain of a channel with little information
    into, out = vae.quant_conv, vae.post_quant_conv
    into.bias[:4] -= mean
    into.bias[:4] /= std
    into.weight[:4] /= std[:, None, None, None]
    into.bias[4:] -= 2 * std.log()
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight *= std[None, :, None, None]


def main() -> None:
    """Train and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("start", type=Path, help="the diffusers folder to write")
    parser.add_argument("--minutes", type=float, default=20, help="minutes of processor time")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    crops = Crops(seed=0)
    vae = new_vae()
    with torch.no_grad():
        linear_start(vae)
    train(vae, crops.batch, options.minutes)
    normalize(vae, torch.stack(crops.scenes[:128]).float() / 127.5 - 1)
    tokenizer = build_tokenizer(options.start / "tokenizer")
    new_pipeline(vae.to(memory_format=torch.contiguous_format), tokenizer).save_pretrained(options.start)


if __name__ == "__main__":
    main()
