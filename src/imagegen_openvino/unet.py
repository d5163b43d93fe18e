"""The UNet in OpenVINO, called as torch's."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from imagegen_core import InvalidRequestError
from imagegen_openvino.compiled import CompiledNetwork, replace_constants
from imagegen_openvino.runtime import Runtime

_KEPT = 2  # networks with LoRAs; each takes as much memory as the network without


class OpenVinoUNet:
    """Computes as a diffusers ``UNet2DConditionModel``; a compiled network for each set of LoRAs.

    Attributes:
        merged: The number of networks with LoRAs in memory.
    """

    def __init__(self, runtime: Runtime, model: Any, unet: Any) -> None:
        """Compile the network without LoRAs.

        Args:
            runtime: The device.
            model: The converted network.
            unet: The UNet in torch, for its embeddings of numbers.
        """
        self._runtime, self._model = runtime, model
        self._embed, self._embed_sizes = unet.time_proj, getattr(unet, "add_time_proj", None)
        self._plain = CompiledNetwork(runtime, model, runtime.precision)
        self._merged: OrderedDict[Hashable, CompiledNetwork] = OrderedDict()
        self._used = self._plain

    @property
    def merged(self) -> int:
        """The number of networks with LoRAs in memory."""
        return len(self._merged)

    def use(self, loras: tuple[Hashable, ...], changed: Callable[[], Iterable[tuple[str, Tensor]]]) -> None:
        """Compute with exactly these LoRAs from now on.

        Args:
            loras: The LoRAs with their strengths, in their order.
            changed: Returns the parameters that they change, with their values in float32.
        """
        if not loras:
            self._used = self._plain
            return
        if loras not in self._merged:
            while len(self._merged) >= _KEPT:
                self._merged.popitem(last=False)
            self._merged[loras] = self._with(changed())
        self._merged.move_to_end(loras)
        self._used = self._merged[loras]

    def __call__(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        timestep_cond: Tensor | None = None,
        added_cond_kwargs: Mapping[str, Tensor] | None = None,
        return_dict: bool = False,  # noqa: ARG002 - diffusers' signature
        **others: Any,
    ) -> tuple[Tensor]:
        """Return the prediction, in the sample's shape and dtype: see diffusers' ``UNet2DConditionModel.forward``.

        Raises:
            InvalidRequestError: An extension asks for an argument that the converted network does not have.
        """
        if given := [name for name, value in others.items() if value is not None]:
            raise InvalidRequestError(
                f"An extension of this request needs the network's {given[0]}, which the backend 'openvino' does not "
                "have: leave the extension out, or draw with torch's backend"
            )
        added = dict(added_cond_kwargs or {})
        if (sizes := added.pop("time_ids", None)) is not None and self._embed_sizes is not None:
            added["time_ids"] = self._embed_sizes(sizes.flatten()).reshape(len(sizes), -1)
        if timestep_cond is not None:
            added["timestep_cond"] = timestep_cond
        embedded = self._embed(timestep.expand(len(sample)))
        prediction = self._used(latents=sample, timesteps=embedded, tokens=encoder_hidden_states, **added)
        return (prediction.to(sample.dtype),)

    def _with(self, changed: Iterable[tuple[str, Tensor]]) -> CompiledNetwork:
        model = self._model.clone()  # it shares the constants
        if not replace_constants(model, changed, self._runtime.precision):
            return self._plain  # the LoRAs only change text encoders
        return CompiledNetwork(self._runtime, model, self._runtime.precision)


class OpenVinoDecoder:
    """Computes as the decoder of a diffusers autoencoder, in the dtype of the latents."""

    def __init__(self, runtime: Runtime, model: Any, dtype: torch.dtype) -> None:
        """Compile the decoder for latents of a dtype."""
        self._runtime, self._model = runtime, model
        self._compiled: dict[torch.dtype, CompiledNetwork] = {}
        self._of(dtype)

    def __call__(self, sample: Tensor) -> Tensor:
        """Return pixels [1, 3, 8 h, 8 w] from latents [1, channels, h, w]."""
        return self._of(sample.dtype)(latents=sample).to(sample.dtype)

    def _of(self, dtype: torch.dtype) -> CompiledNetwork:
        if dtype not in self._compiled:
            self._compiled[dtype] = CompiledNetwork(self._runtime, self._model, _PRECISIONS[dtype])
        return self._compiled[dtype]


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The dtypes of precisions."""

_PRECISIONS = {dtype: name for name, dtype in DTYPES.items()}
