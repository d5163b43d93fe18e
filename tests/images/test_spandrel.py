"""Upscalers of many architectures, held to spandrel's own networks called plainly."""

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
def _plainly(run: Any, pixels: np.ndarray, channels: int = 3) -> np.ndarray:
    """What a network makes of a picture, of its channels one by one where it takes but one."""
    image = torch.tensor(pixels).permute(2, 0, 1)[None] / 255
    made = torch.cat([run(part) for part in image.split(channels, dim=1)], dim=1)[0]
    return (made.clamp(0, 1) * 255).round().permute(1, 2, 0).numpy().astype(int)


def _assert_alike(pixels: np.ndarray, wanted: np.ndarray) -> None:
    assert pixels.shape == wanted.shape
    assert np.abs(pixels.astype(int) - wanted).max() <= 1
    assert len(np.unique(wanted)) > 50


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_picture_is_what_the_plain_network_makes_of_it(tmp_path: Path, name: str) -> None:
    _, scale, channels = ARCHITECTURES[name]
    plain, pixels = network(name), _noise(16, 24)
    upscaler = _saved(tmp_path / "net.safetensors", plain.state_dict())
    assert upscaler.scale == scale
    _assert_alike(upscaler.enlarge(pixels), _plainly(plain, pixels, channels))


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if not name.startswith("DnCNN")])
def test_its_header_tells_what_it_is(tmp_path: Path, name: str) -> None:
    torch.save({"params_ema": network(name).state_dict()}, tmp_path / "net.pt")
    found = describe(tmp_path / "net.pt")
    layout = name.partition(" ")[0].rstrip(",").lower().removeprefix("real")
    assert (found.kind, found.layout) == ("upscaler", layout)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 11), (17, 33)])
@pytest.mark.parametrize("name", ["SwinIR x2", "DAT x2", "OmniSR x4", "SPAN x2"])
def test_any_size_is_padded_as_spandrel_pads_it(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    weights, pixels = network(name).state_dict(), _noise(*size)
    described = spandrel.ModelLoader().load_from_state_dict(dict(weights))
    enlarged = _saved(tmp_path / "net.pth", weights).enlarge(pixels)
    assert np.abs(enlarged.astype(int) - _plainly(described, pixels)).max() <= 1


def test_tiles_make_the_picture_that_the_whole_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, pixels = network("SPAN x2"), _noise(70, 45)
    monkeypatch.setattr(upscaling, "_TILE", 20)
    _assert_alike(_saved(tmp_path / "net.pth", plain.state_dict()).enlarge(pixels), _plainly(plain, pixels))


def test_a_grey_network_leaves_a_grey_picture_grey(tmp_path: Path) -> None:
    grey = _noise(16, 24)[..., :1].repeat(3, axis=2)
    enlarged = _saved(tmp_path / "net.pth", network("SwinIR, grey, x3").state_dict()).enlarge(grey)
    assert np.array_equal(enlarged[..., 0], enlarged[..., 1])
    assert np.array_equal(enlarged[..., 0], enlarged[..., 2])


@pytest.mark.parametrize("name", ["net.pth", "net.pt", "net.ckpt", "NET.PTH", "NET.Pt", "net.SafeTensors"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_format_and_precision_loads(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    plain = network("SPAN x2").to(dtype)
    upscaler = _saved(tmp_path / name, plain.state_dict())
    _assert_alike(upscaler.enlarge(_noise(16, 16)), _plainly(plain.float(), _noise(16, 16)))


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
def test_esrgans_family_is_as_spandrel_has_it(tmp_path: Path, weights: Any, size: tuple[int, int]) -> None:
    described = spandrel.ModelLoader().load_from_state_dict(dict(weights))
    pixels = _noise(*size)
    wanted = _plainly(described.model, pixels, described.input_channels)
    _assert_alike(_saved(tmp_path / "net.pth", weights).enlarge(pixels), wanted)


def test_what_a_profiler_leaves_behind_is_no_obstacle(tmp_path: Path) -> None:
    weights = network("OmniSR x4").state_dict()
    _saved(tmp_path / "net.pth", weights | {"total_ops": torch.zeros(1), "up.total_params": torch.zeros(1)})


class _Odd(spandrel.Architecture):
    """An architecture of a third party, whose network adds one to a picture."""

    def __init__(self, **described: Any) -> None:
        super().__init__(id="Odd", detect=lambda weights: "odd.bias" in weights)
        self._described = {"purpose": "Restoration", "input_channels": 3, "output_channels": 3} | described

    def load(self, state_dict: dict[str, Tensor]) -> Any:
        kind = spandrel.ImageModelDescriptor
        described: dict[str, Any] = {"tags": [], "supports_half": True, "supports_bfloat16": True, "scale": 1}
        if self._described["purpose"] == "Inpainting":
            kind = spandrel.MaskedImageModelDescriptor
            del described["scale"]
        model = nn.Module()
        model.odd = nn.Module()
        model.odd.bias = nn.Parameter(torch.zeros(1))
        kept = {name: tensor for name, tensor in state_dict.items() if name == "odd.bias"}
        return kind(model, kept, architecture=self, **described, **self._described)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """spandrel's registry, to which architectures can be added for one test."""
    registry = spandrel.MAIN_REGISTRY.copy()
    monkeypatch.setattr(spandrel, "MAIN_REGISTRY", registry)
    return registry


ODD = {"odd.bias": torch.zeros(1)}
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Tensor], str]] = {
    "a mask is needed": ({"purpose": "Inpainting"}, ODD, "Odd: it fills masked parts and enlarges nothing"),
    "faces alone": ({"purpose": "FaceSR"}, ODD, "it restores cut-out faces of one size, and no whole pictures"),
    "a tensor is dropped": ({}, ODD | {"odd.extra": torch.ones(2)}, "it has no use for the file's 'odd.extra'"),
    "colours from grey": ({"input_channels": 1}, ODD, "it turns 1 channels into 3"),
    "four channels": (
        {"input_channels": 4, "output_channels": 4},
        ODD,
        "it takes 4 channels; give one for RGB or grey",
    ),
}


@pytest.mark.parametrize(("described", "weights", "words"), REFUSED.values(), ids=REFUSED)
def test_what_enlarges_no_pictures_is_refused(
    tmp_path: Path, registry: Any, described: dict[str, Any], weights: Any, words: str
) -> None:
    registry.add(spandrel.ArchSupport.from_architecture(_Odd(**described)))
    with pytest.raises(ModelLoadError, match=words):
        _saved(tmp_path / "net.pth", weights)


def test_a_network_that_draws_at_random_is_refused(tmp_path: Path) -> None:
    marks = (
        "mid_attn.layers.0.0.to_out.weight",
        "mid_block2.block1.proj.weights",
        "final_res_block.block1.proj.weights",
    )
    with pytest.raises(ModelLoadError, match="of architecture AuraSR: it adds noise of its own"):
        _saved(tmp_path / "net.pth", {name: torch.zeros(1) for name in marks})


@pytest.mark.parametrize("change", [{"odd.weight": torch.ones(2)}, {"upsampler.0.bias": None}])
def test_a_tensor_too_many_or_too_few_is_refused_by_name(tmp_path: Path, change: dict[str, Any]) -> None:
    weights = network("SPAN x2").state_dict() | change
    (name,) = change
    with pytest.raises(ModelLoadError, match=rf"spandrel takes it for SPAN, and its weights do not fit .*{name}"):
        _saved(tmp_path / "net.pth", {name: tensor for name, tensor in weights.items() if tensor is not None})


def test_an_unknown_network_is_refused_by_a_name_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="such as 'x', are of no architecture that spandrel knows"):
        _saved(tmp_path / "net.pth", {"x": torch.zeros(1)})
