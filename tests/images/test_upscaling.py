"""Upscalers: lanczos, networks from files, and plugins' upscalers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from imagegen_core import (
    InvalidRequestError,
    ModelLoadError,
    ModelNotFoundError,
    PluginError,
    Registry,
    Settings,
    SettingsError,
    Upscaler,
    UpscalerDef,
    upscale,
)
from imagegen_core.diffusion import upscaling
from tests.images import networks
from tests.plugins.installed import Installer

CPU = Settings(device="cpu")


def _noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _saved(path: Path, weights: Any) -> Upscaler:
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)
    else:
        torch.save(weights, path)
    return Registry.discover({"IMAGEGEN_PLUGINS": "none"}).upscaler(str(path)).load(CPU)


def _lanczos() -> Upscaler:
    return Registry([]).upscaler("lanczos").load(CPU)


@pytest.mark.parametrize("passes", [1, 2, 3])
def test_each_pass_multiplies_both_sides(passes: int) -> None:
    image = Image.fromarray(_noise(5, 7))
    enlarged = upscale(image, _lanczos(), passes)
    assert enlarged.size == (7 * 2**passes, 5 * 2**passes)
    expected = image
    for number in range(1, passes + 1):
        expected = expected.resize((7 * 2**number, 5 * 2**number), Image.Resampling.LANCZOS)
    assert np.array_equal(np.asarray(enlarged), np.asarray(expected))


@pytest.mark.parametrize("passes", [0, 4, -1, 1.5])
def test_invalid_numbers_of_passes_are_refused(passes: Any) -> None:
    with pytest.raises(InvalidRequestError, match=rf"Invalid passes {passes}: expected a whole number from 1 to 3"):
        upscale(Image.new("RGB", (4, 4)), _lanczos(), passes)


def test_a_result_too_large_is_refused_before_any_computation() -> None:
    with pytest.raises(InvalidRequestError, match="4096x4096 by 4: 16384x16384 is more than the 89 million pixels"):
        upscale(Image.new("RGB", (4096, 4096)), _lanczos(), 2)


FILES = {
    "x4": (networks.esrgan(scale=4, ups=2), 4),
    "x2 from half the size": (networks.esrgan(scale=2, ups=2, shuffle=2), 2),
    "x1 from a quarter": (networks.esrgan(scale=1, ups=2, shuffle=4), 1),
    "x4 by the original names": (networks.with_original_names(networks.esrgan(scale=4, ups=2), 2), 4),
    "x8 by the original names": (networks.with_original_names(networks.esrgan(scale=8, ups=3), 3), 8),
    "compact x2": (networks.compact(scale=2), 2),
    "compact x4": (networks.compact(scale=4), 4),
}


@pytest.mark.parametrize(("weights", "scale"), FILES.values(), ids=FILES)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_esrgan_networks_load_from_both_formats(tmp_path: Path, weights: Any, scale: int, suffix: str) -> None:
    upscaler = _saved(tmp_path / f"net{suffix}", weights)
    assert (upscaler.name, upscaler.scale) == ("net", scale)
    enlarged = upscaler.enlarge(_noise(9, 13))
    assert enlarged.shape == (9 * scale, 13 * scale, 3)
    assert len(np.unique(enlarged)) > 20


def test_all_naming_schemes_give_the_same_network(tmp_path: Path) -> None:
    weights = networks.esrgan(scale=4, ups=2)
    renamed = {
        name.replace("conv_body", "trunk_conv")
        .replace("body.", "RRDB_trunk.")
        .replace("rdb", "RDB")
        .replace("conv_up", "upconv")
        .replace("conv_hr", "HRconv"): tensor
        for name, tensor in weights.items()
    }
    for saved in (
        renamed,
        networks.with_original_names(weights, ups=2),
        {"params_ema": weights, "params": {}},
        {"state_dict": weights},
        {"params": weights},
    ):
        enlarged = _saved(tmp_path / "other.pth", saved).enlarge(_noise(8, 8))
        assert np.array_equal(enlarged, _saved(tmp_path / "net.pth", weights).enlarge(_noise(8, 8)))


def test_half_precision_weights_compute_in_single_precision(tmp_path: Path) -> None:
    half = {name: tensor.half() for name, tensor in networks.compact().items()}
    single = {name: tensor.float() for name, tensor in half.items()}
    from_half, from_single = (
        _saved(tmp_path / "net.safetensors", weights).enlarge(_noise(8, 8)) for weights in (half, single)
    )
    assert np.array_equal(from_half, from_single)


@pytest.mark.parametrize(
    "weights",
    [networks.compact(depth=3), networks.esrgan(blocks=3), networks.esrgan(scale=2, ups=2, shuffle=2)],
    ids=["compact", "esrgan", "from half the size"],
)
def test_a_network_leaves_no_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Any) -> None:
    pixels = _noise(71, 45)
    upscaler = _saved(tmp_path / "net.pth", weights)
    whole = upscaler.enlarge(pixels).astype(int)
    monkeypatch.setattr(upscaling, "_TILE", 16)
    assert np.abs(upscaler.enlarge(pixels) - whole).max() <= 1


def test_an_odd_side_is_padded_by_mirroring(tmp_path: Path) -> None:
    upscaler = _saved(tmp_path / "net.pth", networks.esrgan(scale=2, ups=2, shuffle=2))
    pixels = _noise(9, 13)
    padded = np.pad(pixels, ((0, 1), (0, 1), (0, 0)), mode="reflect")
    assert np.array_equal(upscaler.enlarge(pixels), upscaler.enlarge(padded)[:18, :26])


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 1)])
def test_the_smallest_pictures_are_enlarged(tmp_path: Path, size: tuple[int, int]) -> None:
    upscaler = _saved(tmp_path / "net.pth", networks.esrgan(scale=1, ups=2, shuffle=4))
    assert upscaler.enlarge(_noise(*size)).shape == (*size, 3)


def test_a_grey_network_enlarges_each_channel_separately(tmp_path: Path) -> None:
    upscaler = _saved(tmp_path / "net.pth", networks.esrgan(scale=2, ups=1, channels=1))
    pixels = _noise(9, 13)
    enlarged = upscaler.enlarge(pixels)
    for channel in range(3):
        grey = pixels[..., channel, None].repeat(3, axis=2)
        assert np.array_equal(upscaler.enlarge(grey), enlarged[..., channel, None].repeat(3, axis=2))


_FROM_HALF = {"conv_first.weight": torch.zeros(8, 12, 3, 3)}


def _damaged(weights: dict[str, Any], missing: str) -> dict[str, Any]:
    return {name: tensor for name, tensor in weights.items() if name != missing}


COMPACT, ESRGAN = networks.compact(), networks.esrgan()
WRONG_FILES: dict[str, tuple[Any, str]] = {
    "no tensors": ({"a": 1}, "holds no tensors"),
    "missing weight": (_damaged(ESRGAN, "conv_hr.weight"), "the layer 'high' of its ESRGAN network has no weight"),
    "missing bias": (_damaged(ESRGAN, "body.1.rdb2.conv3.bias"), r"the layer 'blocks\.1\.2\.3' .* has no bias"),
    "wrong shape": (COMPACT | {"body.2.bias": torch.zeros(3)}, "the shapes of its weights do not fit together"),
    "four channels": (ESRGAN | {"conv_first.weight": torch.zeros(8, 4, 3, 3)}, "make no whole scale"),
    "RGB to grey": (
        ESRGAN | {"conv_last.weight": torch.zeros(1, 8, 3, 3), "conv_last.bias": torch.zeros(1)},
        "3 channels at one end of its ESRGAN network and 1 at the other make no whole scale",
    ),
    "last layer without convolution": (
        ESRGAN | {"conv_last.weight": torch.zeros(8)},
        "the last layer of its ESRGAN network is not a conv",
    ),
    "no channels": (ESRGAN | {"conv_last.weight": torch.zeros(0, 8, 3, 3)}, "is not a convolution"),
    "compact network without convolution": (COMPACT | {"body.0.weight": torch.zeros(3)}, "is not a convolution"),
    "RGBA": (networks.compact(channels=4), "it takes 4 channels; give one for RGB or grey"),
    "half the size": (networks.esrgan(scale=1, ups=0, shuffle=1) | _FROM_HALF, "turns 16x16 pixels into 8x8"),
    "not finite": (
        COMPACT | {"body.2.bias": torch.full((8,), torch.nan)},
        "'body.2.bias' has values that are not finite",
    ),
    "infinite": (
        COMPACT | {"body.2.bias": torch.full((8,), torch.inf)},
        "'body.2.bias' has values that are not finite",
    ),
    "a value other than a tensor": (
        COMPACT | {"scale": 2},
        "its 'scale' is not a tensor but int; save only its weights",
    ),
    "two networks": (
        {"params": COMPACT, "discriminator": {"a": torch.zeros(1)}},
        "holds tensors under 'discriminator' beside the weights under 'params'; save only its weights",
    ),
}


@pytest.mark.parametrize(("weights", "message"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_an_unsuitable_weights_file_is_refused(tmp_path: Path, weights: Any, message: str) -> None:
    with pytest.raises(ModelLoadError, match=message):
        _saved(tmp_path / "net.pth", weights)


def test_weights_are_read_from_a_training_checkpoint(tmp_path: Path) -> None:
    last, average = networks.compact(), {name: tensor / 2 for name, tensor in networks.compact().items()}
    state = {"epoch": 3, "optimizer": {"state": [{"exp_avg": torch.zeros(2)}]}}
    expected = _saved(tmp_path / "net.pth", average).enlarge(_noise(8, 8))
    for saved in (
        {"params": last, "params_ema": average, **state},
        {"state_dict": {f"module.{name}": tensor for name, tensor in average.items()}, **state},
        {"anything": average},
    ):
        assert np.array_equal(_saved(tmp_path / "saved.pth", saved).enlarge(_noise(8, 8)), expected)


def test_the_content_determines_the_format(tmp_path: Path) -> None:
    _saved(tmp_path / "net.safetensors", networks.compact())
    upscaler = Registry([]).upscaler(str((tmp_path / "net.safetensors").rename(tmp_path / "net.pth"))).load(CPU)
    assert upscaler.scale == 2


def test_later_changes_to_the_file_have_no_effect(tmp_path: Path) -> None:
    upscaler = _saved(tmp_path / "net.safetensors", networks.compact())
    before = upscaler.enlarge(_noise(8, 8))
    (tmp_path / "net.safetensors").write_bytes(b"")
    assert np.array_equal(upscaler.enlarge(_noise(8, 8)), before)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights at all", b"PK\x03\x04 cut"])
def test_a_damaged_file_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"net{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelLoadError, match=r"net\.\w+ is not a complete .* file: .*; copy or download it again"):
        Registry([]).upscaler(str(path)).load(CPU)


class _Mischief:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("touched"),))


def test_a_pickle_runs_no_code(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="is refused: its pickle asks for .*, which weights do not need"):
        _saved(tmp_path / "net.pth", {"body.0.weight": _Mischief()})
    assert not Path("touched").exists()


def test_a_missing_file_and_an_unknown_name_give_different_errors() -> None:
    with pytest.raises(ModelNotFoundError, match=r"No upscaler gone\.pth: give the path"):
        Registry([]).upscaler("gone.pth").load(CPU)
    with pytest.raises(ModelNotFoundError, match=r"No upscaler 'gone': choose lanczos, or give the path of a \.pth or"):
        Registry([]).upscaler("gone")


def test_a_missing_device_is_refused(tmp_path: Path) -> None:
    torch.save(networks.compact(), tmp_path / "net.pth")
    with pytest.raises(SettingsError, match="cuda:9"):
        Registry([]).upscaler(str(tmp_path / "net.pth")).load(Settings(device="cuda:9"))


def test_other_networks_are_refused_without_spandrel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    other = {"layers.0.attention.weight": torch.zeros(3, 3)}
    message = (
        "not of ESRGAN's family, and other networks need spandrel, but .*; pip install 'imagegen-core\\[upscale\\]'"
    )
    with pytest.raises(PluginError, match=message):
        _saved(tmp_path / "net.pth", other)
    with pytest.raises(PluginError, match=r"its 'body\.0\.odd\.weight' is of no layer that an ESRGAN network has"):
        _saved(tmp_path / "net.pth", networks.esrgan() | {"body.0.odd.weight": torch.zeros(1)})


PLUGIN = """
from imagegen_core import UpscalerDef, hookimpl

class Tripler:
    name, scale = "tripler", 3

    def __init__(self, description, settings):
        assert (description.name, settings.device) == ("tripler", "cpu")

    def enlarge(self, pixels):
        return pixels.repeat(3, axis=0).repeat(3, axis=1)

@hookimpl
def imagegen_upscalers():
    return [UpscalerDef("tripler", "a test's", scale=3, factory=f"{__name__}:Tripler"),
            UpscalerDef("gone", "a test's", factory="no_such_module:Upscaler")]
"""


def test_a_plugin_offers_upscalers(install: Installer) -> None:
    install.add("ups", PLUGIN)
    registry = Registry.discover({})
    assert registry.plugins[0].offers == ["upscaler tripler", "upscaler gone"]
    enlarged = upscale(Image.fromarray(_noise(2, 3)), registry.upscaler("tripler").load(CPU))
    assert enlarged.size == (9, 6)
    assert registry.upscaler("tripler").load(Settings(device="cpu,cuda:1")).scale == 3
    with pytest.raises(PluginError, match="Upscaler 'gone' cannot be used.*no_such_module"):
        registry.upscaler("gone").load(CPU)


def test_a_plugins_upscaler_has_priority_over_lanczos(install: Installer) -> None:
    assert Registry.discover({}).upscaler().name == "lanczos"
    install.add("ups", PLUGIN)
    assert Registry.discover({}).upscaler().name == "tripler"


def test_a_plugin_offers_weights_without_code(install: Installer, tmp_path: Path) -> None:
    torch.save(networks.compact(scale=4), tmp_path / "net.pth")
    install.add(
        "ups",
        f"""
from pathlib import Path
from imagegen_core import UpscalerDef, hookimpl

@hookimpl
def imagegen_upscalers():
    return [UpscalerDef("mine", "a test's", scale=4, weights=Path({str(tmp_path / "net.pth")!r}))]
""",
    )
    upscaler = Registry.discover({}).upscaler("mine").load(CPU)
    assert (upscaler.name, upscaler.scale) == ("mine", 4)


def test_a_description_without_weights_is_refused() -> None:
    with pytest.raises(ModelLoadError, match="names no weights"):
        UpscalerDef("mine", "a test's").load(CPU)


def test_the_error_names_an_upscalers_broken_plugin(install: Installer) -> None:
    install.add("ups", "import no_such_module")
    with pytest.raises(PluginError, match="Upscaler 'ups' is not available: its plugin imagegen-ups 1.0 is broken"):
        Registry.discover({}).upscaler("ups")


def test_no_plugin_replaces_lanczos(install: Installer) -> None:
    install.add(
        "ups",
        """
from imagegen_core import UpscalerDef, hookimpl

@hookimpl
def imagegen_upscalers():
    return [UpscalerDef("lanczos", "another", factory="a:B")]
""",
    )
    registry = Registry.discover({})
    assert "already imagegen's own" in registry.plugins[0].cause
    assert isinstance(registry.upscaler().load(CPU).enlarge(_noise(2, 2)), np.ndarray)


def test_lanczos_needs_no_torch() -> None:
    code = (
        "import sys\nfrom PIL import Image\nfrom imagegen_core import Registry, Settings, upscale\n"
        "upscale(Image.new('RGB', (4, 4)), Registry([]).upscaler().load(Settings()))\nprint('torch' in sys.modules)"
    )
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert completed.stdout == "False\n"
