"""Layers of diffusers without the parts that change nothing.

A residual block of diffusers divides by its scale of 1, and writes each intermediate result to new memory. Attention
inspects its processor's parameters at each call. The results here have the same bits.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor
from torch.nn import functional


class DirectResnetBlock(ResnetBlock2D):  # type: ignore[misc] # diffusers has no types
    """A residual block that changes its own intermediate results in place."""

    def forward(self, input_tensor: Tensor, temb: Tensor | None = None) -> Tensor:
        """See diffusers' ``ResnetBlock2D``."""
        hidden: Tensor = self.conv1(functional.silu(self.norm1(input_tensor), inplace=True))
        if temb is not None and self.time_emb_proj is not None:
            hidden += self.time_emb_proj(functional.silu(temb))[:, :, None, None]
        hidden = self.conv2(functional.silu(self.norm2(hidden), inplace=True))
        hidden += input_tensor if self.conv_shortcut is None else self.conv_shortcut(input_tensor)
        return hidden


class DirectAttention(Attention):  # type: ignore[misc]
    """Attention that calls its processor at once."""

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **more: Any,
    ) -> Tensor:
        """See diffusers' ``Attention``, which chooses among further arguments."""
        arguments = {"encoder_hidden_states": encoder_hidden_states, "attention_mask": attention_mask}
        if more:
            return super().forward(hidden_states, **arguments, **more)  # type: ignore[no-any-return]
        attended: Tensor = self.processor(self, hidden_states, **arguments)
        return attended


def use_direct_layers(network: Any) -> None:
    """Replace the layers of a network where the result is the same."""
    for layer in network.modules():
        if type(layer) is ResnetBlock2D and _is_plain(layer):
            layer.__class__ = DirectResnetBlock
        elif type(layer) is Attention:
            layer.__class__ = DirectAttention


def _is_plain(block: Any) -> bool:
    """Return whether a block keeps the picture's sides, adds its time if it has any, and computes SiLU."""
    return (
        block.upsample is None
        and block.downsample is None
        and block.time_embedding_norm in ("default", "group")  # the decoder's, without a time
        and block.output_scale_factor == 1
        and not block.skip_time_act
        and type(block.nonlinearity) is torch.nn.SiLU
        and not block.dropout.p
    )
