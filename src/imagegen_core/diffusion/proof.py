"""The proof that a shared forward pass leaves each state's prediction as it is alone, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from imagegen_core.diffusion.denoising import Denoising

Predict = Callable[[Sequence[Denoising]], Sequence[Tensor]]


def prove(predict: Predict, states: Sequence[Denoising]) -> tuple[Sequence[Tensor], bool]:
    """Compare four shared passes with the passes of each state alone.

    The shared passes repeat and permute the rows. In three of them, every other row has latents of NaN, of infinity or
    of zeros: a kernel that reads a neighbour's row spoils its own.

    Args:
        predict: Returns the network's prediction for each of several states, in one forward pass.
        states: States of one group; they do not move.

    Returns:
        Each state's prediction alone, and whether all shared passes gave the same bits. Predictions that are not finite
        alone prove nothing, because NaN equals no value.
    """
    alone = [predict([state])[0] for state in states]
    finite = {index for index, prediction in enumerate(alone) if prediction.isfinite().all()}
    forward = range(len(states))

    def is_same(order: Sequence[int], spoiled: Mapping[int, float]) -> bool:
        shared = predict([_spoiled(states[index], spoiled.get(index)) for index in order])
        return all(
            torch.equal(prediction, alone[index])
            for index, prediction in zip(order, shared, strict=True)
            if index in finite and index not in spoiled
        )

    passes: list[tuple[Sequence[int], Mapping[int, float]]] = [
        (forward, {}),
        (forward[::-1], dict.fromkeys(forward[1::2], math.nan)),
        (forward[::-1], dict.fromkeys(forward[::2], math.inf)),
        (forward, dict.fromkeys(forward[1::2], 0.0)),
    ]
    return alone, bool(finite) and all(is_same(order, spoiled) for order, spoiled in passes)


def _spoiled(state: Denoising, value: float | None) -> Denoising:
    return state if value is None else replace(state, latents=torch.full_like(state.latents, value))
