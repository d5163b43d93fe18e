"""The direct layers compute the bits of diffusers' layers, and leave their inputs and other layers alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor

from imagegen_core.diffusion.direct_layers import DirectAttention, DirectResnetBlock, use_direct_layers


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _block(**options: Any) -> Any:
    return ResnetBlock2D(in_channels=8, **{"groups": 4, "temb_channels": 6, **options}).eval()


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("out_channels", [8, 12])
@pytest.mark.parametrize(("temb_channels", "norm"), [(6, "default"), (None, "default"), (None, "group")])
def test_a_residual_block_keeps_its_bits_and_inputs(
    dtype: torch.dtype, out_channels: int, temb_channels: int | None, norm: str
) -> None:
    """The norm ``group`` is the decoder's."""
    block = _block(out_channels=out_channels, temb_channels=temb_channels, time_embedding_norm=norm).to(dtype)
    pixels = _random(2, 8, 10, 6).to(dtype)
    time = None if temb_channels is None else _random(2, temb_channels, seed=1).to(dtype)
    given = [pixels.clone(), time if time is None else time.clone()]
    expected = block(pixels, time)
    use_direct_layers(block)
    assert type(block) is DirectResnetBlock
    assert torch.equal(block(pixels, time), expected)
    assert torch.equal(pixels, given[0])
    assert time is None or torch.equal(time, given[1])


@pytest.mark.parametrize(
    "options",
    [
        {"output_scale_factor": 2.0},
        {"time_embedding_norm": "scale_shift"},
        {"skip_time_act": True},
        {"non_linearity": "gelu"},
        {"up": True},
        {"down": True},
        {"dropout": 0.1},
    ],
)
def test_other_blocks_stay(options: dict[str, Any]) -> None:
    block = _block(**options)
    use_direct_layers(block)
    assert type(block) is ResnetBlock2D


@torch.inference_mode()
@pytest.mark.parametrize("crosses", [False, True])
def test_attention_keeps_its_bits(crosses: bool) -> None:
    layer = Attention(query_dim=16, cross_attention_dim=12 if crosses else None, heads=2, dim_head=8).eval()
    tokens, prompt = _random(2, 9, 16), _random(2, 5, 12, seed=1) if crosses else None
    mask = _random(2, 1, 5 if crosses else 9, seed=2)
    expected = [layer(tokens, prompt), layer(tokens, prompt, mask), layer(tokens, prompt, mask, temb=None)]
    use_direct_layers(layer)
    assert type(layer) is DirectAttention
    assert all(
        map(
            torch.equal,
            expected,
            [layer(tokens, prompt), layer(tokens, prompt, mask), layer(tokens, prompt, mask, temb=None)],
        )
    )


def test_the_network_and_the_autoencoder_have_direct_layers(sdxl_checkpoint: Any) -> None:
    from imagegen_core import Settings
    from imagegen_sdxl import DiffusersSDXLCudaWorker

    worker = DiffusersSDXLCudaWorker(settings=Settings(model=str(sdxl_checkpoint), device="cpu", dtype="fp32"))
    for network in (worker.pipe.unet, worker.pipe.vae.encoder, worker.pipe.vae.decoder):
        kinds = {type(layer) for layer in network.modules()}
        assert DirectResnetBlock in kinds
        assert ResnetBlock2D not in kinds
