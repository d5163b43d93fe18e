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
PICTURES = 1200
CROP, BATCH = 64, 32
CELL = 16
LEARNING_RATE = 1.2e-3
_EDGE = 4  # levels; a pixel of an outline differs more from the mean around it


class Compact(torch.nn.Module):
    """Convolutions with PReLU between them, added to the nearest neighbour's picture.

    The first three channels start as the picture's own, and pass from layer to layer. The last layer alone can then
    correct the nearest neighbour to interpolation, which it learns quickly.
    """

    def __init__(self) -> None:
        """Start with the nearest neighbour's picture."""
        super().__init__()
        layers: list[torch.nn.Module] = []
        for channels in [3, *[WIDTH] * HIDDEN]:
            layers += [_passing(torch.nn.Conv2d(channels, WIDTH, 3, padding=1)), torch.nn.PReLU(WIDTH)]
            with torch.no_grad():
                layers[-1].weight[:3] = 1
        last = torch.nn.Conv2d(WIDTH, 3 * SCALE**2, 3, padding=1)
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.zeros_(last.bias)
        self.body = torch.nn.Sequential(*layers, last)

    def forward(self, image: Tensor) -> Tensor:
        """Enlarge RGB [N, 3, h, w] in 0..1 to [N, 3, 2h, 2w]."""
        return functional.pixel_shuffle(self.body(image), SCALE) + functional.interpolate(image, scale_factor=SCALE)


@torch.no_grad()
def _passing(layer: torch.nn.Conv2d) -> torch.nn.Conv2d:
    torch.nn.init.kaiming_normal_(layer.weight, a=0.25)
    torch.nn.init.zeros_(layer.bias)
    layer.weight[:3] = 0
    layer.weight[range(3), range(3), 1, 1] = 1
    return layer


def pictures(count: int, seed: int) -> Tensor:
    """Return scenes that are not held out, with smooth outlines, uint8 [count, 3, 256, 256]."""
    rng = random.Random(seed)
    return torch.stack([torch.tensor(render(random_scene(rng), rng)).permute(2, 0, 1) for _ in range(count)])


def outlines(large: Tensor) -> Tensor:
    """Return the cells with an outline to learn: picture, row and column of each, [M, 3]."""
    outlined = []
    for index, picture in enumerate(large):
        gray = picture.float().mean(0)[None, None]
        around = functional.avg_pool2d(functional.pad(gray, (1, 1, 1, 1), mode="replicate"), 3, 1)
        cells = (functional.max_pool2d((gray - around).abs(), CELL)[0, 0] > _EDGE).nonzero()
        outlined.append(functional.pad(cells, (1, 0), value=index))
    return torch.cat(outlined)


def batch(large: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    """Return crops around outlines at half size and at full size, in 0..1."""
    crops = []
    for picture, *cell in cells[torch.randint(0, len(cells), (BATCH,))].tolist():
        shift = torch.randint(0, CELL, (2,)).tolist()
        corner = [CELL * at + by - CROP // 2 for at, by in zip(cell, shift, strict=True)]
        top, left = (min(max(at, 0), large.shape[-1] - CROP) // SCALE * SCALE for at in corner)
        crops.append(large[picture, :, top : top + CROP, left : left + CROP])
    whole = torch.stack(crops).float() / 255
    return functional.avg_pool2d(whole, SCALE), whole


def main() -> None:
    """Train for the given time with the squared error, and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=6)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.manual_seed(0)
    large = pictures(PICTURES, seed=77)
    cells = outlines(large)
    network = Compact().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=0)
    began, step, average = time.monotonic(), 0, 0.0
    while (share := (time.monotonic() - began) / (60 * options.minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))
        small, whole = batch(large, cells)
        loss = (network(small.contiguous(memory_format=torch.channels_last)) - whole).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        average += (loss.item() - average) * (0.02 if average else 1.0)
        if step % 100 == 0:
            logger.info("step %d, PSNR %.1f dB", step, -10 * math.log10(average))
    save_file({name: tensor.half().contiguous() for name, tensor in network.state_dict().items()}, options.out)


if __name__ == "__main__":
    main()
