"""Tiles join without a seam, because a network sees each tile with its surroundings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from imagegen_core.images.tiling import enlarge_in_tiles
from imagegen_core.parts import completed
from tests.repetitions import FACTOR

_RADIUS = 3  # three convolutions of 3×3


def _network(scale: int) -> torch.nn.Module:
    torch.manual_seed(scale)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3, padding=1),
        torch.nn.LeakyReLU(0.2),
        torch.nn.Conv2d(6, 6, 3, padding=1),
        torch.nn.LeakyReLU(0.2),
        torch.nn.Conv2d(6, 3 * scale**2, 3, padding=1),
        torch.nn.PixelShuffle(scale),
    )
    with torch.no_grad():
        network[4].weight.mul_(6)
    return network


class _Enlarger:
    """A random network that records the largest side of its inputs."""

    def __init__(self, scale: int) -> None:
        self.network = _network(scale)
        self.largest = 0

    @torch.inference_mode()
    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        self.largest = max(self.largest, *pixels.shape[:2])
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255
        levels = (self.network(image)[0] + 0.5).clamp(0, 1).mul(255).round()
        return levels.to(torch.uint8).permute(1, 2, 0).numpy()


def _noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@settings(max_examples=60 * FACTOR)
@given(
    height=st.integers(1, 50),
    width=st.integers(1, 50),
    tile=st.integers(1, 24),
    scale=st.integers(1, 4),
    extra=st.integers(0, 4),
)
def test_tiles_join_without_a_seam(height: int, width: int, tile: int, scale: int, extra: int) -> None:
    pixels, enlarge = _noise(height, width), _Enlarger(scale)
    whole = enlarge(pixels).astype(int)
    overlap = _RADIUS + extra
    tiled = completed(enlarge_in_tiles(enlarge, pixels, scale=scale, tile=tile, overlap=overlap))
    assert tiled.shape == (height * scale, width * scale, 3)
    assert np.abs(tiled - whole).max() <= 1


def test_an_overlap_below_the_networks_radius_leaves_seams() -> None:
    pixels, enlarge = _noise(40, 40), _Enlarger(2)
    tiled = completed(enlarge_in_tiles(enlarge, pixels, scale=2, tile=10, overlap=_RADIUS - 1))
    assert np.abs(tiled - enlarge(pixels).astype(int)).max() > 1


@pytest.mark.parametrize("size", [(500, 9), (9, 500), (64, 64)])
def test_no_input_is_larger_than_a_tile_with_its_overlap(size: tuple[int, int]) -> None:
    enlarge = _Enlarger(1)
    completed(enlarge_in_tiles(enlarge, _noise(*size), scale=1, tile=32, overlap=4))
    assert enlarge.largest <= 32 + 2 * 4
