"""Train the demo's upscaler, Real-ESRGAN's SRVGGNetCompact at twice the size, on drawn scenes.

Run from the repository root: ``python -m training.train_upscaler UPSCALER.safetensors --minutes 6``.
"""

from __future__ import annotations

import argparse
import logging
import math
import random
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from training.scenes import random_scene, render

logger = logging.getLogger(__name__)

WIDTH, HIDDEN = 24, 5
SCALE = 2
PICTURES = 400
CROP, BATCH = 64, 16
LEARNING_RATE = 3e-3


class Compact(torch.nn.Module):
    """Convolutions with PReLU between them, added to the nearest neighbour's picture."""

    def __init__(self) -> None:
        """Start at the nearest neighbour's picture."""
        super().__init__()
        layers: list[torch.nn.Module] = [torch.nn.Conv2d(3, WIDTH, 3, padding=1), torch.nn.PReLU(WIDTH)]
        for _ in range(HIDDEN):
            layers += [torch.nn.Conv2d(WIDTH, WIDTH, 3, padding=1), torch.nn.PReLU(WIDTH)]
        last = torch.nn.Conv2d(WIDTH, 3 * SCALE**2, 3, padding=1)
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.zeros_(last.bias)
        self.body = torch.nn.Sequential(*layers, last)

    def forward(self, image: Tensor) -> Tensor:
        """RGB [N, 3, h, w] in 0..1 to [N, 3, 2h, 2w]."""
        return functional.pixel_shuffle(self.body(image), SCALE) + functional.interpolate(image, scale_factor=SCALE)


def pictures(count: int, seed: int) -> Tensor:
    """Scenes none of which is held out, uint8 [count, 3, 512, 512]."""
    rng = random.Random(seed)
    return torch.stack([torch.tensor(render(random_scene(rng), rng, reduced=1)).permute(2, 0, 1) for _ in range(count)])


def batch(large: Tensor) -> tuple[Tensor, Tensor]:
    """Crops of drawn pictures at half their size, and at their own, in 0..1."""
    side = CROP * SCALE
    crops = []
    for index in torch.randint(0, len(large), (BATCH,)).tolist():
        top, left = torch.randint(0, (large.shape[-1] - side) // SCALE + 1, (2,)).mul(SCALE).tolist()
        crops.append(large[index, :, top : top + side, left : left + side])
    whole = torch.stack(crops).float() / 255
    return functional.avg_pool2d(whole, SCALE), whole


def main() -> None:
    """Train for the time given, by Charbonnier's loss, and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=6)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.manual_seed(0)
    large = pictures(PICTURES, seed=77)
    network = Compact().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=0)
    began, step, average = time.monotonic(), 0, 0.0
    while (share := (time.monotonic() - began) / (60 * options.minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))
        small, whole = batch(large)
        error = network(small.contiguous(memory_format=torch.channels_last)) - whole
        loss = (error.square() + 1e-6).sqrt().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        average += (error.square().mean().item() - average) * (0.02 if average else 1.0)
        if step % 100 == 0:
            logger.info("step %d, PSNR %.1f dB", step, -10 * math.log10(average))
    save_file({name: tensor.half().contiguous() for name, tensor in network.state_dict().items()}, options.out)


if __name__ == "__main__":
    main()
