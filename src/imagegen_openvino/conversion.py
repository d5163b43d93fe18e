"""Convert the networks of a diffusers pipeline from torch to OpenVINO.

`openvino.convert_model` would report its use over the network, so OpenVINO's frontend for torch is called directly.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from torch import Tensor, nn

from imagegen_openvino.group_norms import replace_group_norms

# Two rows, or the trace would keep the number of rows. Odd sides at every level of a UNet: for even sides, diffusers
# leaves out the sizes between up- and downsampling.
_ROWS, _SIDES, _TOKENS = 2, (9, 11), 77
_SIZES, _IMAGE = 6, 4  # the numbers of a picture's sizes, and of its dimensions


class UNet(nn.Module):
    """A diffusers ``UNet2DConditionModel`` as a function of tensors by name.

    The sinusoidal embeddings of timesteps and sizes are inputs. In bf16, OpenVINO would compute them from numbers that
    bf16 cannot tell apart, such as 998 and 999.
    """

    def __init__(self, unet: Any) -> None:
        """Take a UNet of a worker's pipeline; it is of no other use afterwards."""
        super().__init__()
        self.network = unet
        unet.add_time_proj = nn.Identity()

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        tokens: Tensor,
        text_embeds: Tensor | None = None,
        time_ids: Tensor | None = None,
        timestep_cond: Tensor | None = None,
    ) -> Tensor:
        """Return the prediction, in the latents' shape.

        Args:
            latents: [rows, channels, height, width].
            timesteps: The sinusoidal embeddings of the timesteps [rows, width].
            tokens: The encoded prompts [rows, tokens, width].
            text_embeds: The pooled prompts [rows, width], for SDXL.
            time_ids: The sinusoidal embeddings of the sizes [rows, 6 widths], for SDXL.
            timestep_cond: The embedded guidance scales [rows, width], for networks that were distilled with guidance.
        """
        self.network.get_time_embed = lambda **_: timesteps
        added = {"text_embeds": text_embeds, "time_ids": time_ids}
        prediction: Tensor = self.network(
            latents, 0, tokens, timestep_cond=timestep_cond, added_cond_kwargs=added, return_dict=False
        )[0]
        return prediction


class Decoder(nn.Module):
    """The decoder of a diffusers autoencoder, without the convolution before it."""

    def __init__(self, decoder: Any) -> None:
        """Take a decoder of a worker's pipeline; it is of no other use afterwards."""
        super().__init__()
        self.network = decoder

    def forward(self, latents: Tensor) -> Tensor:
        """Return pixels [1, 3, 8 h, 8 w] from the autoencoder's latents [1, channels, h, w]."""
        return self.network(latents)  # type: ignore[no-any-return]


def converted_unet(unet: Any, *, for_cpu: bool) -> AbstractContextManager[Any]:
    """Convert a UNet; its rows, sides and number of tokens stay open."""
    config = unet.config
    inputs = {
        "latents": torch.zeros(_ROWS, config.in_channels, *_SIDES),
        "timesteps": torch.zeros(_ROWS, config.block_out_channels[0]),
        "tokens": torch.zeros(_ROWS, _TOKENS, config.cross_attention_dim),
    }
    if config.addition_embed_type == "text_time":
        sizes = _SIZES * config.addition_time_embed_dim
        inputs["text_embeds"] = torch.zeros(_ROWS, config.projection_class_embeddings_input_dim - sizes)
        inputs["time_ids"] = torch.zeros(_ROWS, sizes)
    if config.time_cond_proj_dim is not None:
        inputs["timestep_cond"] = torch.zeros(_ROWS, config.time_cond_proj_dim)
    return _converted(UNet(unet), inputs, for_cpu=for_cpu)


def converted_decoder(decoder: Any, channels: int, *, for_cpu: bool) -> AbstractContextManager[Any]:
    """Convert an autoencoder's decoder; its sides stay open. `channels` is the number of the latents' channels."""
    return _converted(Decoder(decoder), {"latents": torch.zeros(1, channels, *_SIDES)}, for_cpu=for_cpu)


@contextmanager
def _converted(network: nn.Module, inputs: Mapping[str, Tensor], *, for_cpu: bool) -> Iterator[Any]:
    """Convert a network; the result shares the network's memory, and is of no use after the context."""
    _compute_in_float(network)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns about each width that it takes as constant
        decoder = TorchScriptPythonDecoder(network.eval(), example_input=dict(inputs))
        frontend = FrontEndManager().load_by_framework("pytorch")
        model = frontend.convert(frontend.load(decoder))
    model.reshape({name: _open_shape(tensor) for name, tensor in inputs.items()})
    if for_cpu:
        replace_group_norms(model)
    yield model
    del decoder  # it keeps the network's memory until here


def _open_shape(tensor: Tensor) -> list[int]:
    """Return a tensor's shape with -1 for the number of tokens, for the sides, and for several rows."""
    rows = -1 if len(tensor) > 1 else 1
    return (
        [rows, tensor.shape[1], -1, -1]
        if tensor.ndim == _IMAGE
        else [rows, *[-1] * (tensor.ndim - 2), tensor.shape[-1]]
    )


class _Linear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        return nn.functional.linear(input, self.weight.float(), _float(self.bias))


class _Conv2d(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        weight, bias = self.weight.float(), _float(self.bias)
        return nn.functional.conv2d(input, weight, bias, self.stride, self.padding, self.dilation, self.groups)


_WIDENED: dict[type, type] = {nn.Linear: _Linear, nn.Conv2d: _Conv2d}


def _compute_in_float(network: nn.Module) -> None:
    """Make a network compute in float32; large weights keep their dtype, and are converted where they are used.

    The trace keeps these conversions, and OpenVINO removes them when it compiles for another precision. Weights in
    float32 become float16 if that loses nothing, as with most checkpoints.
    """
    for module in network.modules():
        if type(module) in _WIDENED:
            module.__class__ = _WIDENED[type(module)]
            for tensor in module.parameters(recurse=False):
                if tensor.dtype == torch.float32 and torch.equal((half := tensor.data.half()).float(), tensor):
                    tensor.data = half
        else:
            for held in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                held.data = held.data.float()


def _float(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.float()
