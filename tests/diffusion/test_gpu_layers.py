"""Layers for a GPU: a group norm by the moments of channels, and where the layers are used."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from imagegen_core import Settings
from imagegen_core.diffusion.gpu_layers import ChannelsLastGroupNorm, group_moments, has_tensor_cores
from imagegen_core.diffusion.pipeline_setup import has_channels_last
from imagegen_core.diffusion.vae_setup import is_channels_last, wide_dtype

CUDA = torch.device("cuda:0")


@given(groups=st.integers(1, 8), width=st.integers(1, 6), seed=st.integers(0, 999), offset=st.floats(-50, 50))
def test_the_moments_of_groups_follow_from_those_of_their_channels(
    groups: int, width: int, seed: int, offset: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    picture = torch.randn(groups * width, 40, generator=generator, dtype=torch.float64)
    picture = picture * torch.rand(groups * width, 1, generator=generator) + offset * torch.rand(groups * width, 1)
    variances, means = torch.var_mean(picture, 1, correction=0)
    expected_variance, expected_mean = torch.var_mean(picture.view(groups, -1), 1, correction=0)
    mean, variance = group_moments(means, variances, groups)
    torch.testing.assert_close(mean, expected_mean)
    torch.testing.assert_close(variance, expected_variance)


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 5), False), ((8, 0), True), ((8, 9), True), ((9, 0), True), ((12, 0), True)]
)
def test_gpus_since_ampere_have_the_layers(
    capability: tuple[int, int], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert has_tensor_cores(CUDA) == expected
    assert has_channels_last(CUDA, torch.float16, Settings()) == expected
    assert is_channels_last(CUDA, Settings()) == expected
    assert wide_dtype(CUDA) == (torch.bfloat16 if expected else torch.float32)
    assert not has_channels_last(CUDA, torch.float16, Settings(compile=True))
    assert not is_channels_last(CUDA, Settings(vae_channels_last=False))


def test_other_devices_have_no_tensor_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 4))
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert not has_tensor_cores(CUDA)
    assert not has_tensor_cores(torch.device("mps"))
    assert wide_dtype(torch.device("cpu")) == torch.float32


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    "shape", [(1, 128, 512, 512), (1, 512, 64, 64), (2, 320, 128, 128), (3, 320, 128, 128), (1, 64, 8, 8)]
)
def test_a_group_norm_is_that_in_double_precision(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    generator = torch.Generator(CUDA).manual_seed(1)

    def noise(*sides: int) -> Any:
        return torch.randn(sides, generator=generator, device=CUDA)

    norm = torch.nn.GroupNorm(32, shape[1], eps=1e-6, device=CUDA)
    with torch.no_grad():
        norm.weight.copy_(noise(shape[1]))
        norm.bias.copy_(noise(shape[1]))
    norm = norm.to(dtype)
    picture = (noise(*shape) * 2 + 3 * noise(shape[1], 1, 1)).to(dtype).to(memory_format=torch.channels_last)
    picture[0, : shape[1] // 16] = 1.5  # constant channels, and a constant group
    expected = torch.nn.functional.group_norm(picture.double(), 32, norm.weight.double(), norm.bias.double(), norm.eps)
    norm.__class__ = ChannelsLastGroupNorm
    with torch.inference_mode():
        first, second = norm(picture), norm(picture)
        alone = torch.cat([norm(row) for row in picture.split(1)])
    assert torch.equal(first, second)
    # In the constant group, the epsilon makes a rounding a thousand times larger.
    off = (first.double() - expected).abs().max() / expected.abs().max()
    assert (
        off <= {torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.float32: 1e-4}[dtype]
    )  # rounding in a constant group grows by 1000
    assert len(picture) > 2 or torch.equal(first, alone)
