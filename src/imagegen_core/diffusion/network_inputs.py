"""The inputs of one forward pass, for one request or for several together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from imagegen_core.diffusion.conditioning import Conditioning

if TYPE_CHECKING:
    from imagegen_core.diffusion.denoising import Denoising


@dataclass(slots=True)
class NetworkInputs:
    """The rows of a forward pass: one for each conditioning of each state, in their order.

    Rows that only fill up the pass repeat the last row. An extension may replace any attribute but `states`.

    Attributes:
        network: The network, as `DiffusionWorker.predict` calls it.
        states: The state of each row.
        latents: The scheduler's scaled latents [rows, ...].
        timesteps: The timestep of each row [rows].
        conditioning: The rows' conditionings as one: each tensor is [rows, ...].
        options: Further arguments for the network by their names, such as a ControlNet's residuals.
    """

    network: Callable[..., Any]
    states: Sequence[Denoising]
    latents: Tensor
    timesteps: Tensor
    conditioning: Conditioning
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, network: Callable[..., Any], states: Sequence[Denoising], filled: int | None = None) -> NetworkInputs:
        """Join the states' rows.

        Args:
            network: The network.
            states: States of one group; their timesteps, guidance and schedulers may differ.
            filled: The number of rows to fill the pass up to; None leaves the states with their own rows.
        """
        rows = [state for state in states for _ in range(state.rows)]
        missing = max((filled or 0) - len(rows), 0)

        def joined(tensors: Sequence[Tensor]) -> Tensor:
            return torch.cat([*tensors, *[tensors[-1][-1:]] * missing])

        conditionings = [conditioning for state in states for conditioning in state.conditionings]
        return cls(
            network=network,
            states=[*rows, *rows[-1:] * missing],
            latents=joined([state.scaled_latents() for state in states]),
            timesteps=joined([state.timestep.expand(state.rows) for state in states]),
            conditioning=Conditioning(
                joined([conditioning.tokens for conditioning in conditionings]),
                {
                    name: joined([conditioning.added[name] for conditioning in conditionings])
                    for name in conditionings[0].added
                },
            ),
        )
