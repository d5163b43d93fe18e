"""Rewritten networks compute what torch's layers compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from openvino import opset13 as ops
from torch import Tensor, nn
from torch.nn import functional

from imagegen_openvino.conversion import Decoder, _converted
from imagegen_openvino.group_norms import keep_float32
from imagegen_openvino.rewriting import rewrite_upsamplings, split_gates, upsamplings
from imagegen_openvino.runtime import shared_core


class _Upsampling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 16, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        return self.conv(functional.interpolate(latents, scale_factor=2.0, mode="nearest"))


class _Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(16, 64)

    def forward(self, latents: Tensor) -> Tensor:
        tokens = torch.cat([latents, latents], 1).flatten(2).transpose(1, 2)
        values, gates = self.proj(tokens).chunk(2, -1)
        return values * functional.gelu(gates)


def _network(module: nn.Module, file: Path) -> Any:
    """Convert a module with eight input channels, and read it from its file."""
    with _converted(Decoder(module), {"latents": torch.zeros(1, 8, 9, 11)}, for_cpu=True) as network:
        openvino.save_model(network, file, compress_to_fp16=False)
    keep_float32(file)
    return shared_core().read_model(file)


def _computed(network: Any, latents: Tensor, precision: str = "f32") -> Tensor:
    compiled = shared_core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": precision})
    return torch.from_numpy(compiled({"latents": latents.numpy()})[0].copy())


@pytest.mark.parametrize("quantized", [False, True])
@torch.inference_mode()
def test_an_upsampling_is_computed_in_the_small_picture(tmp_path: Path, quantized: bool) -> None:
    module, latents = _Upsampling(), torch.randn(1, 8, 5, 7)
    expected = module(latents)
    network = _network(module, tmp_path / "network.xml")
    kernels = rewrite_upsamplings(network, quantized=quantized)
    assert len(kernels) == (4 if quantized else 1)
    assert not upsamplings(network)
    torch.testing.assert_close(_computed(network, latents), expected, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_a_gate_needs_no_division(tmp_path: Path) -> None:
    module, latents = _Gate(), torch.randn(1, 8, 5, 7)
    expected = module(latents)
    network = _network(module, tmp_path / "network.xml")
    halves = split_gates(network)
    assert [tuple(half.shape)[-1] for half in halves] == [16, 16, 32, 32]
    assert "VariadicSplit" not in {node.get_type_name() for node in network.get_ops()}
    torch.testing.assert_close(_computed(network, latents), expected, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_group_norms_keep_float32_in_bf16(tmp_path: Path) -> None:
    """A mean of 30 with a spread of 1: in bf16 alone, the mean would be off by up to 0.1."""
    torch.manual_seed(1)
    module = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 1, bias=False))
    for conv in (module[0], module[2]):
        conv.weight.copy_(torch.eye(8)[:, :, None, None])
    module[1].weight.uniform_(0.5, 2.0)
    module[1].bias.normal_()
    latents = (torch.randn(1, 8, 33, 21) + 30).bfloat16().float()
    expected = module(latents)
    network = _network(module, tmp_path / "network.xml")
    assert "GroupNormalization" not in {node.get_type_name() for node in network.get_ops()}
    torch.testing.assert_close(_computed(network, latents), expected, atol=1e-4, rtol=1e-4)
    error = (_computed(network, latents, "bf16") - expected).mean((0, 2, 3)).abs().max()
    assert error < 0.01


@torch.inference_mode()
def test_other_upsamplings_stay(tmp_path: Path) -> None:
    picture = ops.parameter([1, 8, -1, -1], np.float32, name="latents")
    sizes = ops.constant(np.array([2.0, 2.0], np.float32))
    axes = ops.constant(np.array([2, 3]))
    doubled = ops.interpolate(
        picture, sizes, "nearest", "scales", [0] * 4, [0] * 4, "asymmetric", "floor", False, -0.75, axes
    )
    network = openvino.Model([doubled], [picture], "network")
    assert not upsamplings(network)
    assert not rewrite_upsamplings(network, quantized=False)
