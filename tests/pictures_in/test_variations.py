"""Variations follow A1111's rules, and micro-conditioning plain diffusers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from imagegen_core import MicroConditioning, Variation
from imagegen_core.diffusion.noise import interpolated
from tests.pictures_in.conftest import Pair, difference, picture


def seeded(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))


def documented_slerp(share: float, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """The interpolation of the rows of one picture [channels, height, width], column by column."""
    result = torch.empty_like(low)
    for channel in range(low.shape[0]):
        for column in range(low.shape[2]):
            a, b = low[channel, :, column].double(), high[channel, :, column].double()
            angle = torch.acos((a / a.norm()) @ (b / b.norm()))
            mixed = torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b
            result[channel, :, column] = (mixed / torch.sin(angle)).float()
    return result


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_interpolation_is_spherical_along_the_height(share: float) -> None:
    low, high = seeded(1, (4, 6, 8)), seeded(2, (4, 6, 8))
    torch.testing.assert_close(interpolated(low[None], high[None], share)[0], documented_slerp(share, low, high))


def test_equal_noises_stay() -> None:
    low = seeded(1, (1, 4, 6, 8))
    assert interpolated(low, low.clone(), 0.3).equal(low)


def _expected(pair: Pair, latents: torch.Tensor, **fields: Any) -> Any:
    height, width = latents.shape[-2:]
    return pair.expected("", "Euler", latents=latents, width=8 * width, height=8 * height, guidance_scale=1.0, **fields)


def test_a_second_seed_changes_the_first_noise(pair: Pair) -> None:
    shape = (1, 4, 6, 8)
    mixed = documented_slerp(0.3, seeded(7, shape)[0], seeded(9, shape)[0])[None]
    drawn = pair.draw(size="64x48", scheduler="Euler", variation=Variation(seed=9, strength=0.3))
    assert difference(drawn, _expected(pair, mixed, num_inference_steps=4)) <= 1


def test_the_ends_of_a_variation_are_the_two_seeds(pair: Pair) -> None:
    fields: dict[str, Any] = {"size": "64x48", "scheduler": "Euler"}
    assert (pair.draw(variation=Variation(seed=9), **fields) == pair.draw(**fields)).all()
    end = pair.draw(variation=Variation(seed=9, strength=1.0), **fields)
    assert difference(end, pair.draw(**fields, seed=9)) <= 1


@pytest.mark.parametrize("size", [(64, 48), (96, 80), (32, 64)])
def test_a_noise_of_another_size_keeps_its_middle(pair: Pair, size: tuple[int, int]) -> None:
    width, height = size
    whole, part = seeded(7, (1, 4, 6, 8)), seeded(7, (1, 4, height // 8, width // 8))
    for row in range(6):
        for column in range(8):
            down, right = row + (part.shape[2] - 6) // 2, column + (part.shape[3] - 8) // 2
            if 0 <= down < part.shape[2] and 0 <= right < part.shape[3]:
                whole[..., row, column] = part[..., down, right]
    drawn = pair.draw(size="64x48", scheduler="Euler", variation=Variation(resize_from=f"{width}x{height}"))
    assert difference(drawn, _expected(pair, whole, num_inference_steps=4)) <= 1


def test_a_variation_of_an_image_differs(pair: Pair) -> None:
    fields: dict[str, Any] = {"image": picture(), "strength": 0.8}
    assert difference(pair.draw(variation=Variation(seed=9, strength=0.5), **fields), pair.draw(**fields)) > 1


CONDITIONS: dict[str, tuple[MicroConditioning, dict[str, Any]]] = {
    "sizes": (
        MicroConditioning(original_size="96x32", target_size="80x72"),
        {"original_size": (32, 96), "target_size": (72, 80)},
    ),
    "a crop": (MicroConditioning(crop=(5, 9)), {"crops_coords_top_left": (9, 5)}),
    "negatives": (
        MicroConditioning(negative_original_size="16x24", negative_crop=(3, 4), negative_target_size="40x8"),
        {
            "negative_original_size": (24, 16),
            "negative_crops_coords_top_left": (4, 3),
            "negative_target_size": (8, 40),
        },
    ),
}


@pytest.mark.parametrize("pair", ["sdxl"], indirect=True)
@pytest.mark.parametrize(("conditions", "arguments"), CONDITIONS.values(), ids=CONDITIONS)
def test_micro_conditioning_equals_the_plain_pipeline(
    pair: Pair, conditions: MicroConditioning, arguments: dict[str, Any]
) -> None:
    fields: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 5.0, "negative_prompt": "blurry"}
    expected = pair.expected("", "Euler", width=64, height=48, **fields, **arguments)
    drawn = pair.draw(size="64x48", scheduler="Euler", micro_conditioning=conditions, **fields)
    assert difference(drawn, expected) <= 1
    assert difference(drawn, pair.draw(size="64x48", scheduler="Euler", **fields)) > 1
