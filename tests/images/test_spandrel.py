"""Upscalers of many architectures, compared with direct calls of spandrel's networks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from imagegen_core import ModelLoadError, Registry, Settings, Upscaler
from imagegen_core.diffusion import upscaling
from imagegen_core.models.inspect import describe
from tests.images import networks
from tests.images.architectures import ARCHITECTURES, network

pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning"),
    pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning"),
]
spandrel = pytest.importorskip("spandrel", reason="imagegen-core[upscale] is not installed")


def _noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _saved(path: Path, weights: Any) -> Upscaler:
    if path.suffix.lower() == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)
    else:
        torch.save(weights, path)
    return Registry([]).upscaler(str(path)).load(Settings(device="cpu"))


@torch.inference_mode()
def _direct_output(compute: Any, pixels: np.ndarray, channels: int = 3) -> np.ndarray:
    """Return a network's output for a picture; a grey network computes each channel separately."""
    image = torch.tensor(pixels).permute(2, 0, 1)[None] / 255
    output = torch.cat([compute(part) for part in image.split(channels, dim=1)], dim=1)[0]
    return (output.clamp(0, 1) * 255).round().permute(1, 2, 0).numpy().astype(int)


def _assert_close(pixels: np.ndarray, expected: np.ndarray) -> None:
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= 1
    assert len(np.unique(expected)) > 50


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_upscaler_computes_the_same_as_its_network(tmp_path: Path, name: str) -> None:
    _, scale, channels = ARCHITECTURES[name]
    direct, pixels = network(name), _noise(16, 24)
    upscaler = _saved(tmp_path / "net.safetensors", direct.state_dict())
    assert upscaler.scale == scale
    _assert_close(upscaler.enlarge(pixels), _direct_output(direct, pixels, channels))


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if not name.startswith("DnCNN")])
def test_describe_recognizes_the_architecture(tmp_path: Path, name: str) -> None:
    torch.save({"params_ema": network(name).state_dict()}, tmp_path / "net.pt")
    description = describe(tmp_path / "net.pt")
    layout = name.partition(" ")[0].rstrip(",").lower().removeprefix("real")
    assert (description.kind, description.layout) == ("upscaler", layout)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 11), (17, 33)])
@pytest.mark.parametrize("name", ["SwinIR x2", "DAT x2", "OmniSR x4", "SPAN x2"])
def test_every_size_is_padded_as_in_spandrel(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    weights, pixels = network(name).state_dict(), _noise(*size)
    descriptor = spandrel.ModelLoader().load_from_state_dict(dict(weights))
    enlarged = _saved(tmp_path / "net.pth", weights).enlarge(pixels)
    assert np.abs(enlarged.astype(int) - _direct_output(descriptor, pixels)).max() <= 1


def test_tiles_give_the_same_picture_as_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    direct, pixels = network("SPAN x2"), _noise(70, 45)
    monkeypatch.setattr(upscaling, "_TILE", 20)
    _assert_close(_saved(tmp_path / "net.pth", direct.state_dict()).enlarge(pixels), _direct_output(direct, pixels))


def test_a_grey_network_leaves_a_grey_picture_grey(tmp_path: Path) -> None:
    grey = _noise(16, 24)[..., :1].repeat(3, axis=2)
    enlarged = _saved(tmp_path / "net.pth", network("SwinIR, grey, x3").state_dict()).enlarge(grey)
    assert np.array_equal(enlarged[..., 0], enlarged[..., 1])
    assert np.array_equal(enlarged[..., 0], enlarged[..., 2])


@pytest.mark.parametrize("name", ["net.pth", "net.pt", "net.ckpt", "NET.PTH", "NET.Pt", "net.SafeTensors"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_format_and_precision_loads(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    direct = network("SPAN x2").to(dtype)
    upscaler = _saved(tmp_path / name, direct.state_dict())
    _assert_close(upscaler.enlarge(_noise(16, 16)), _direct_output(direct.float(), _noise(16, 16)))


OWN = {
    "esrgan x4": networks.esrgan(scale=4, ups=2, growth=32),
    "esrgan x2 from half the size": networks.esrgan(scale=2, ups=2, shuffle=2, growth=32),
    "esrgan x1 from a quarter": networks.esrgan(scale=1, ups=2, shuffle=4, growth=32),
    "esrgan, grey": networks.esrgan(scale=2, ups=1, channels=1, growth=32),
    "compact x2": networks.compact(scale=2),
    "compact x1": networks.compact(scale=1),
    "compact, grey": networks.compact(scale=3, channels=1),
}


@pytest.mark.parametrize("weights", OWN.values(), ids=OWN)
@pytest.mark.parametrize("size", [(16, 16), (9, 13)])
def test_esrgan_networks_compute_the_same_as_spandrels(tmp_path: Path, weights: Any, size: tuple[int, int]) -> None:
    descriptor = spandrel.ModelLoader().load_from_state_dict(dict(weights))
    pixels = _noise(*size)
    expected = _direct_output(descriptor.model, pixels, descriptor.input_channels)
    _assert_close(_saved(tmp_path / "net.pth", weights).enlarge(pixels), expected)


def test_a_profilers_leftover_tensors_are_ignored(tmp_path: Path) -> None:
    weights = network("OmniSR x4").state_dict()
    _saved(tmp_path / "net.pth", weights | {"total_ops": torch.zeros(1), "up.total_params": torch.zeros(1)})


class _Odd(spandrel.Architecture):
    """A third party's architecture, with a network of a single bias."""

    def __init__(self, **properties: Any) -> None:
        super().__init__(id="Odd", detect=lambda weights: "odd.bias" in weights)
        self._properties = {"purpose": "Restoration", "input_channels": 3, "output_channels": 3} | properties

    def load(self, state_dict: dict[str, Tensor]) -> Any:
        kind = spandrel.ImageModelDescriptor
        options: dict[str, Any] = {"tags": [], "supports_half": True, "supports_bfloat16": True, "scale": 1}
        if self._properties["purpose"] == "Inpainting":
            kind = spandrel.MaskedImageModelDescriptor
            del options["scale"]
        model = nn.Module()
        model.odd = nn.Module()
        model.odd.bias = nn.Parameter(torch.zeros(1))
        weights = {name: tensor for name, tensor in state_dict.items() if name == "odd.bias"}
        return kind(model, weights, architecture=self, **options, **self._properties)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A copy of spandrel's registry; a test may add architectures to it."""
    registry = spandrel.MAIN_REGISTRY.copy()
    monkeypatch.setattr(spandrel, "MAIN_REGISTRY", registry)
    return registry


ODD = {"odd.bias": torch.zeros(1)}
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Tensor], str]] = {
    "needs a mask": ({"purpose": "Inpainting"}, ODD, "Odd: it fills masked parts and enlarges nothing"),
    "only faces": ({"purpose": "FaceSR"}, ODD, "it restores cut-out faces of one size, and no whole pictures"),
    "a tensor is dropped": ({}, ODD | {"odd.extra": torch.ones(2)}, "it has no use for the file's 'odd.extra'"),
    "colours from grey": ({"input_channels": 1}, ODD, "it turns 1 channels into 3"),
    "four channels": (
        {"input_channels": 4, "output_channels": 4},
        ODD,
        "it takes 4 channels; give one for RGB or grey",
    ),
}


@pytest.mark.parametrize(("properties", "weights", "message"), REFUSED.values(), ids=REFUSED)
def test_unsuitable_architectures_are_refused(
    tmp_path: Path, registry: Any, properties: dict[str, Any], weights: Any, message: str
) -> None:
    registry.add(spandrel.ArchSupport.from_architecture(_Odd(**properties)))
    with pytest.raises(ModelLoadError, match=message):
        _saved(tmp_path / "net.pth", weights)


def test_a_network_with_random_noise_is_refused(tmp_path: Path) -> None:
    marks = (
        "mid_attn.layers.0.0.to_out.weight",
        "mid_block2.block1.proj.weights",
        "final_res_block.block1.proj.weights",
    )
    with pytest.raises(ModelLoadError, match="of architecture AuraSR: it adds noise of its own"):
        _saved(tmp_path / "net.pth", {name: torch.zeros(1) for name in marks})


@pytest.mark.parametrize("change", [{"odd.weight": torch.ones(2)}, {"upsampler.0.bias": None}])
def test_the_error_names_an_extra_or_missing_tensor(tmp_path: Path, change: dict[str, Any]) -> None:
    weights = network("SPAN x2").state_dict() | change
    (name,) = change
    with pytest.raises(ModelLoadError, match=rf"spandrel takes it for SPAN, and its weights do not fit .*{name}"):
        _saved(tmp_path / "net.pth", {name: tensor for name, tensor in weights.items() if tensor is not None})


def test_the_error_for_an_unknown_network_names_a_tensor(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="such as 'x', are of no architecture that spandrel knows"):
        _saved(tmp_path / "net.pth", {"x": torch.zeros(1)})
