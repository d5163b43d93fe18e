"""A1111's steps at a denoising strength, against its rules on a list of noise levels."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagegen_core.diffusion.starting_point import first_step
from imagegen_core.server.a1111.step_count import StepCount

STEPS = st.integers(1, 1000)
DENOISING = st.floats(0, 1) | st.integers(0, 100).map(lambda percent: percent / 100)


def drawn_levels(total: int, t_enc: int) -> list[int]:
    """Return the levels of the drawn steps, by ``sigma_sched = sigmas[steps - t_enc - 1:]`` without the last zero.

    Source: ``sample_img2img`` in ``modules/sd_samplers_kdiffusion.py`` of A1111 1.10.
    """
    return list(range(total))[total - t_enc - 1 :]


def our_levels(count: StepCount, *, rounds_up: bool) -> list[int]:
    """Return the levels of the steps that a worker draws at the strength."""
    strength = count.strength(rounds_up=rounds_up)
    assert 0 < strength <= 1
    return list(range(count.steps))[first_step(count.steps, strength, rounds_up=rounds_up) :]


@given(steps=STEPS, denoising=DENOISING, rounds_up=st.booleans())
def test_img2img_draws_the_levels_of_a1111(steps: int, denoising: float, rounds_up: bool) -> None:
    t_enc = int(min(denoising, 0.999) * steps)
    assert our_levels(StepCount.of_part(steps, denoising), rounds_up=rounds_up) == drawn_levels(steps, t_enc)


@given(steps=st.integers(1, 150), denoising=st.floats(0.01, 1), rounds_up=st.booleans())
def test_hires_draws_the_levels_of_a1111(steps: int, denoising: float, rounds_up: bool) -> None:
    total = int(steps / min(denoising, 0.999))
    assert our_levels(StepCount.of_all(steps, denoising), rounds_up=rounds_up) == drawn_levels(total, steps - 1)


@pytest.mark.parametrize(("denoising", "drawn"), [(1.0, 20), (0.75, 16), (0.5, 11), (0.0, 1)])
def test_known_counts_of_20_steps(denoising: float, drawn: int) -> None:
    assert StepCount.of_part(20, denoising) == StepCount(20, drawn)


def test_without_denoising_hires_draws_one_step() -> None:
    assert our_levels(StepCount.of_all(20, 0), rounds_up=False) == [19]
