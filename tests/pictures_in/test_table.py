"""img2img and inpainting equal the plain pipelines with every sampler and strength, in both families."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.pictures_in.conftest import SAMPLERS, Pair, difference, mask, picture
from tests.repetitions import FACTOR

STRENGTHS = [0.3, 0.6, 1.0]
Record = Callable[[str, object], None]


def cells(row: int) -> list[tuple[str, float]]:
    """Return samplers and strengths: all by night, else one strength for each sampler, another in each row."""
    return [
        (sampler, strength)
        for column, sampler in enumerate(SAMPLERS)
        for number, strength in enumerate(STRENGTHS)
        if FACTOR > 1 or (row + column) % len(STRENGTHS) == number
    ]


@pytest.mark.parametrize(("sampler", "strength"), cells(0))
def test_img2img(pair: Pair, sampler: str, strength: float, record_property: Record) -> None:
    arguments = _arguments(strength)
    expected = pair.expected("Img2Img", sampler, image=picture(), **arguments)
    found = difference(pair.draw(image=picture(), scheduler=sampler, **arguments), expected)
    record_property("difference", found)
    assert found <= 1


@pytest.mark.usefixtures("unpasted")
@pytest.mark.parametrize(("sampler", "strength"), cells(1))
def test_inpainting_with_4_channels(pair: Pair, sampler: str, strength: float, record_property: Record) -> None:
    _compare_masked(pair, sampler, strength, record_property)


@pytest.mark.usefixtures("unpasted")
@pytest.mark.parametrize(("sampler", "strength"), cells(2))
def test_inpainting_with_9_channels(inpainter: Pair, sampler: str, strength: float, record_property: Record) -> None:
    _compare_masked(inpainter, sampler, strength, record_property)


def _compare_masked(pair: Pair, sampler: str, strength: float, record_property: Record) -> None:
    arguments = _arguments(strength)
    shape: dict[str, Any] = {"mask_image": mask(), "width": 64, "height": 48}
    expected = pair.expected("Inpaint", sampler, image=picture(), **shape, **arguments)
    found = difference(pair.draw(image=picture(), mask=mask(), scheduler=sampler, **arguments), expected)
    record_property("difference", found)
    assert found <= 1


def _arguments(strength: float) -> dict[str, Any]:
    return {"num_inference_steps": 6, "guidance_scale": 4.0, "strength": strength}
