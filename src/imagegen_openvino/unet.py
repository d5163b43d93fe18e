"""The UNet in OpenVINO, called as torch's."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from imagegen_core import InvalidRequestError
from imagegen_openvino.compiled import CompiledNetwork
from imagegen_openvino.constants import replace_parameters
from imagegen_openvino.input_ranges import InputRanges
from imagegen_openvino.rewriting import upsamplings
from imagegen_openvino.runtime import Runtime

_KEPT = 2  # further networks; each takes as much memory as the usual network

_Changed = Callable[[], Iterable[tuple[str, Tensor]]]


class OpenVinoUNet:
    """Computes as a diffusers ``UNet2DConditionModel``; a compiled network for each set of LoRAs.

    Sides that are no multiples have another network: diffusers does not double their sides exactly.
    """

    def __init__(self, runtime: Runtime, model: Any, unet: Any, ranges: InputRanges | None) -> None:
        """Compile the network without LoRAs.

        Args:
            runtime: The device.
            model: The converted network.
            unet: The UNet in torch, for its embeddings of numbers.
            ranges: For int8.
        """
        self._runtime, self._model, self._ranges = runtime, model, ranges
        self._embed, self._embed_sizes = unet.time_proj, getattr(unet, "add_time_proj", None)
        self._multiple = 2 ** len(upsamplings(model))
        self._further: OrderedDict[Hashable, CompiledNetwork] = OrderedDict()
        self._loras: tuple[Hashable, ...] = ()
        self._changed: _Changed = tuple
        self._usual = self._compiled(doubles=True)

    @property
    def further(self) -> int:
        """The number of networks in memory, in addition to the usual network."""
        return len(self._further)

    def recompile(self) -> None:
        """Forget all networks to free their memory, and compile the usual network again."""
        self._further.clear()
        del self._usual
        self._usual = self._compiled(doubles=True)

    def use(self, loras: tuple[Hashable, ...], changed: _Changed) -> None:
        """Compute with exactly these LoRAs from now on.

        Args:
            loras: The LoRAs with their strengths, in their order.
            changed: Returns the parameters that they change, with their values in float32.
        """
        self._loras, self._changed = loras, changed

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
        doubles = all(side % self._multiple == 0 for side in sample.shape[-2:])
        prediction = self._network(doubles=doubles)(
            latents=sample, timesteps=embedded, tokens=encoder_hidden_states, **added
        )
        return (prediction.to(sample.dtype),)

    def _network(self, *, doubles: bool) -> CompiledNetwork:
        """Return the network for the LoRAs in use."""
        if doubles and not self._loras:
            return self._usual
        key = (self._loras, doubles)
        if key not in self._further:
            while len(self._further) >= _KEPT:
                self._further.popitem(last=False)
            self._further[key] = self._compiled(doubles=doubles)
        self._further.move_to_end(key)
        return self._further[key]

    def _compiled(self, *, doubles: bool) -> CompiledNetwork:
        model = self._model
        if self._loras:
            model = model.clone()  # it shares the constants
            if not replace_parameters(model, self._changed(), self._runtime.precision) and doubles:
                return self._usual  # the LoRAs only change text encoders
        return CompiledNetwork(self._runtime, model, self._runtime.precision, doubles=doubles, ranges=self._ranges)


class OpenVinoDecoder:
    """Computes as the decoder of a diffusers autoencoder, in the dtype of the latents."""

    def __init__(self, runtime: Runtime, model: Any, dtype: torch.dtype, ranges: InputRanges | None) -> None:
        """Compile the decoder for latents of a dtype; `ranges` is for int8."""
        self._runtime, self._model, self._dtype, self._ranges = runtime, model, dtype, ranges
        self._compiled: dict[torch.dtype, CompiledNetwork] = {}
        self._of(dtype)

    def recompile(self) -> None:
        """Forget the decoder to free its memory, and compile it again."""
        self._compiled.clear()
        self._of(self._dtype)

    def __call__(self, sample: Tensor) -> Tensor:
        """Return pixels [1, 3, 8 h, 8 w] from latents [1, channels, h, w]."""
        return self._of(sample.dtype)(latents=sample).to(sample.dtype)

    def _of(self, dtype: torch.dtype) -> CompiledNetwork:
        if dtype not in self._compiled:
            self._compiled[dtype] = CompiledNetwork(
                self._runtime, self._model, _PRECISIONS[dtype], doubles=True, ranges=self._ranges
            )
        return self._compiled[dtype]


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The dtypes of precisions."""

_PRECISIONS = {dtype: name for name, dtype in DTYPES.items()}
