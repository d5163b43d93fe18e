"""The layers for full-size networks on a CPU compute what torch's layers compute, and rows do not matter."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.upsampling import Upsample2D
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.nn import functional

from imagegen_core import GenerateRequest, Job, LocalEngine, Settings, SettingsError, load_worker
from imagegen_core.diffusion import cpu_layers, exponential_attention, int8_layers, make_rowwise
from imagegen_core.diffusion.cpu_layers import PlainWeightConv2d
from imagegen_core.diffusion.exponential_attention import ExponentialAttention, attention
from imagegen_core.diffusion.int8_layers import Int8Conv2d, Int8Linear, use_int8
from imagegen_core.diffusion.int8_products import Quantized
from imagegen_core.diffusion.subpixel_upsampling import SubpixelUpsampling
from imagegen_core.styles import LoraUse
from imagegen_sd15 import DiffusersCudaWorker
from tests.checkpoints import save_sd15
from tests.loras import as_kohya, random_lora, save

pytestmark = pytest.mark.skipif(not exponential_attention.is_available(), reason="torch has no fused products here")

MakeWorker = Callable[..., Any]


@pytest.fixture(autouse=True)
def _without_gradients() -> Any:
    with torch.inference_mode():
        yield


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the layers' limits fit a tiny model."""
    monkeypatch.setattr(cpu_layers, "_WIDE", 8)
    monkeypatch.setattr(cpu_layers, "_LARGE", 1)
    monkeypatch.setattr(exponential_attention, "_FEWEST", 1)
    monkeypatch.setattr(int8_layers, "_CHANNELS", 8)
    monkeypatch.setattr(int8_layers, "_WEIGHTS", 64)
    monkeypatch.setattr(int8_layers, "_TOKENS", 16)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sd15(tmp_path_factory.mktemp("cpu") / "tiny")


@pytest.fixture
def make(checkpoint: Path) -> MakeWorker:
    def worker(dtype: str, **options: Any) -> Any:
        return DiffusersCudaWorker(settings=Settings(model=str(checkpoint), device="cpu", dtype=dtype, **options))

    return worker


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _error(computed: Tensor, exact: Tensor) -> float:
    return float((computed.float() - exact).square().mean().sqrt() / exact.square().mean().sqrt())


@settings(max_examples=20, deadline=None)
@given(
    tokens=st.integers(1, 600),
    keys=st.integers(1, 200),
    channels=st.sampled_from([8, 40, 64, 80]),
    spread=st.sampled_from([0.1, 1.0, 3.0, 20.0]),
    common=st.sampled_from([0.0, 30.0]),
)
def test_attention_is_softmax_attention(tokens: int, keys: int, channels: int, spread: float, common: float) -> None:
    """A large spread, above the shift's range, is left to torch; a part common to all keys is not."""
    query = (_random(2, 3, tokens, channels) * spread).bfloat16()
    key = (_random(2, 3, keys, channels, seed=1) + common).bfloat16()
    value = _random(2, 3, keys, channels, seed=2).bfloat16()
    exact = functional.scaled_dot_product_attention(query.float(), key.float(), value.float()).transpose(1, 2)
    plain = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exponential_attention, "_FEWEST", 1)
        computed = attention(query, key, value)
        alone = [attention(*(part[row, None] for part in (query, key, value))) for row in (0, 1)]
    assert _error(computed, exact) < 2 * _error(plain, exact) + 0.005 * (1 + spread * (common > 0))
    assert torch.equal(computed, torch.cat(alone))


@pytest.mark.parametrize("spread", [1.0, 1e4])
def test_attention_uses_torch_for_scores_that_are_too_large(spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exponential_attention, "_FEWEST", 1)
    heads: list[int] = []
    monkeypatch.setattr(exponential_attention, "_head", lambda *_: heads.append(1))
    attention(*((_random(1, 4, 32, 16, seed=seed) * spread).bfloat16() for seed in range(3)))
    assert len(heads) == (4 if spread == 1.0 else 0)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"query_dim": 64, "heads": 4, "dim_head": 16}, (2, 80, 64)),
        ({"query_dim": 64, "heads": 4, "dim_head": 16, "cross_attention_dim": 24}, (2, 80, 64)),
        (
            {"query_dim": 64, "heads": 1, "dim_head": 64, "norm_num_groups": 8, "residual_connection": True},
            (2, 64, 8, 10),
        ),
    ],
    ids=["self", "cross", "vae"],
)
def test_the_processor_computes_as_diffusers_own(
    options: dict[str, Any], shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exponential_attention, "_FEWEST", 1)
    torch.manual_seed(3)
    layer = Attention(**options, processor=AttnProcessor2_0()).eval()
    inputs, prompt = _random(*shape), _random(2, 77, 24) if "cross_attention_dim" in options else None
    exact = layer(inputs, prompt)
    layer.bfloat16()
    prompt = None if prompt is None else prompt.bfloat16()
    plain = layer(inputs.bfloat16(), prompt)
    layer.set_processor(ExponentialAttention(layer.processor))
    assert _error(layer(inputs.bfloat16(), prompt), exact) < 1.5 * _error(plain, exact)


@settings(max_examples=15, deadline=None)
@given(
    height=st.integers(1, 9), width=st.integers(1, 9), rows=st.integers(1, 3), dtype=st.sampled_from(["fp32", "bf16"])
)
def test_subpixel_upsampling_is_upsampling(height: int, width: int, rows: int, dtype: str) -> None:
    precision = torch.float32 if dtype == "fp32" else torch.bfloat16
    torch.manual_seed(4)
    plain = Upsample2D(16, use_conv=True).to(precision)
    conv: Any = plain.conv
    fast, inputs = SubpixelUpsampling(conv), _random(rows, 16, height, width).to(precision)
    error = 1e-6 if dtype == "fp32" else 0.01
    assert _error(fast(inputs), plain(inputs).float()) < error
    size = (2 * height + 1, 2 * width)
    torch.testing.assert_close(fast(inputs, size), plain(inputs, size))


def test_subpixel_upsampling_calls_the_hooks_of_its_convolution() -> None:
    plain = Upsample2D(16, use_conv=True)
    conv: Any = plain.conv
    conv.register_forward_hook(lambda layer, inputs, output: output + inputs[0].mean() + layer.weight.sum())
    inputs = _random(1, 16, 5, 6)
    torch.testing.assert_close(SubpixelUpsampling(conv)(inputs), plain(inputs), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("kernel", "large"), [(1, False), (3, False), (3, True)])
def test_a_convolution_with_its_plain_weight(kernel: int, large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_layers, "_LARGE", 1 if large else 2**30)
    conv: Any = torch.nn.Conv2d(24, 40, kernel, padding=kernel // 2)
    inputs = _random(2, 24, 6, 10)
    exact = conv(inputs)
    conv.bfloat16().to(memory_format=torch.channels_last)
    conv.__class__ = PlainWeightConv2d
    assert _error(conv(inputs.bfloat16()), exact) < 0.01


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (torch.nn.Conv2d(24, 40, 3, padding=1), (2, 24, 6, 10)),
        (torch.nn.Conv2d(24, 40, 3, padding=1, stride=2), (2, 24, 6, 10)),
        (torch.nn.Conv2d(24, 40, 1), (2, 24, 6, 10)),
        (torch.nn.Conv2d(24, 40, 1, stride=2), (2, 24, 6, 10)),
        (torch.nn.Linear(24, 40), (2, 50, 24)),
        (Upsample2D(24, use_conv=True), (2, 24, 6, 10)),
    ],
    ids=["convolution", "stride", "pixels", "pixels with a stride", "linear", "upsampling"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.usefixtures("narrow")
def test_int8_layers_are_near_and_ignore_other_rows(layer: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    inputs = functional.silu(_random(*shape)) * torch.tensor([1.0, 30.0]).reshape(-1, *[1] * (len(shape) - 1))
    exact = layer.float()(inputs)
    layer.to(dtype)
    conv = getattr(layer, "conv", None)
    network: Any = torch.nn.Sequential(SubpixelUpsampling(conv) if conv is not None else layer)
    use_int8(network)
    computed = network(inputs.to(dtype))
    assert 0.001 < _error(computed, exact) < 0.03
    assert torch.equal(computed, torch.cat([network(row) for row in inputs.to(dtype).split(1)]))
    inputs[0].view(-1)[5] = torch.nan
    spoiled = network(inputs.to(dtype))
    assert spoiled[0].isnan().any()
    assert torch.equal(spoiled[1], computed[1])


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=50))
def test_quantized_numbers_are_within_half_a_level(numbers: list[float]) -> None:
    exact = torch.tensor(numbers)
    levels, scale, zero = Quantized.of(exact)
    assert (scale * (levels.float() - zero) - exact).abs().max() <= 1.01 * scale + 1e-30


@pytest.mark.usefixtures("narrow")
def test_a_workers_pictures_stay_near_plain_bf16(make: MakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = _drawn(make("fp32"))
    fast, int8 = make("bf16"), make("bf16", int8=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("imagegen_core.diffusion.pipeline_setup.use_cpu_layers", lambda *_, **__: None)
        plain = _drawn(make("bf16"))
    kinds = {type(layer) for layer in int8.pipe.unet.modules()}
    assert {Int8Conv2d, Int8Linear} <= kinds
    assert (fast.numerics.attention, fast.numerics.computation) == ("exponential", None)
    assert (int8.numerics.layout, int8.numerics.computation) == ("channels last, VAE channels last", "int8")
    assert _levels(_drawn(fast), exact) < 1.5 * _levels(plain, exact) + 0.3
    assert 0 < _levels(_drawn(int8), exact) < 12


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("int8", [False, True])
def test_a_lora_changes_all_its_layers(make: MakeWorker, int8: bool, tmp_path: Path) -> None:
    exact, fast = make("fp32"), make("bf16", int8=int8)
    lora = random_lora(exact.pipe, 1)
    file = save(as_kohya(lora), tmp_path / "lora.safetensors")
    use = [LoraUse(file, 10.0, "strong")]
    wanted, without = _drawn(exact, use), _drawn(exact)
    assert _levels(wanted, without) > 3 * _levels(_drawn(fast, use), wanted)
    assert np.array_equal(_drawn(fast), _drawn(make("bf16", int8=int8)))


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("int8", [False, True])
def test_shared_passes_give_the_same_bits(make: MakeWorker, int8: bool) -> None:
    worker = make("bf16", int8=int8)
    states = [
        worker.begin(Job(req=GenerateRequest(prompt="a", size="128x128", seed=seed, guidance_scale=3.0)))
        for seed in range(3)
    ]
    assert worker.trial(states)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Compute with two threads: torch divides some operators by rows then."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("side", [8, 32, 40])
def test_a_group_norm_of_several_rows_is_that_of_each(side: int, dtype: torch.dtype) -> None:
    norm = torch.nn.GroupNorm(32, 64).to(dtype)
    make_rowwise(torch.nn.Sequential(norm))
    pictures = torch.randn(5, 64, side, side).to(dtype).to(memory_format=torch.channels_last)
    together = norm(pictures)
    assert torch.equal(
        together, torch.cat([functional.group_norm(row, 32, norm.weight, norm.bias) for row in pictures.split(1)])
    )
    assert together.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.usefixtures("two_threads")
def test_a_bf16_model_shares_passes_with_two_threads() -> None:
    worker = load_worker(settings=Settings(model="demo", device="cpu", dtype="bf16"))
    with LocalEngine(worker) as engine:
        (group,) = engine.report().groups
    assert 2 in group.proven
    assert not group.refused


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"device": "cpu", "compile": True}, "does not work with compile"),
        ({"device": "meta"}, "only a CPU has here, not meta"),
    ],
)
def test_int8_is_refused_with_a_sentence(settings_: dict[str, Any], message: str) -> None:
    from imagegen_core.diffusion.pipeline_setup import _check_int8

    with pytest.raises(SettingsError, match=message):
        _check_int8(Settings(int8=True, **settings_), torch.device(settings_["device"]))


def test_int8_is_refused_on_a_cpu_without_its_instructions(monkeypatch: pytest.MonkeyPatch, make: MakeWorker) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    with pytest.raises(SettingsError, match="needs a CPU with VNNI or AMX"):
        make("fp32", int8=True)


def _drawn(worker: Any, loras: list[LoraUse] | None = None) -> npt.NDArray[np.int64]:
    request = GenerateRequest(prompt="a lake", size="64x64", seed=5, num_inference_steps=2)
    png, _ = worker.run_job(Job(req=request.with_loras(loras) if loras else request))
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=np.int64)


def _levels(first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> float:
    return float(np.sqrt(np.square(first - second).mean()))


@pytest.mark.usefixtures("narrow")
def test_little_memory_leaves_no_room_for_a_second_copy_of_kernels(make: MakeWorker) -> None:
    def count(network: Any) -> int:
        return sum(isinstance(layer, SubpixelUpsampling) for layer in network.modules())

    usual, stored = make("bf16"), make("bf16", weight_storage="int8")
    assert count(usual.pipe.unet) > 0
    assert count(stored.pipe.unet) == 0
    assert count(usual.pipe.vae) == count(stored.pipe.vae) > 0


def test_the_kernels_of_four_outputs_are_summed_in_parts() -> None:
    conv = torch.nn.Conv2d(5, 150, 3, padding=1).bfloat16()
    weight, kernels = conv.weight.float(), SubpixelUpsampling(conv).kernels
    below_right = weight[:, :, 1:, 1:].sum((2, 3)).bfloat16()  # of the pixel's first output: its own pixel's part
    assert torch.equal(kernels[0, :, :, 1, 1], below_right)
    assert torch.equal(kernels[0, :, :, 0, 0], conv.weight[:, :, 0, 0])
    assert torch.equal(kernels[3, :, :, 1, 1], conv.weight[:, :, 2, 2])
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
