"""The catalog lists styles and each style's usability for a checkpoint, without loading the files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from imagegen_core import STYLE_REGISTRY, Registry, Settings, StyleDef
from imagegen_core.models.loras.checkpoint_layers import CheckpointLayers
from imagegen_core.resolution.style_catalog import StyleCatalog

LAYERS = CheckpointLayers({"unet": {"conv_in.weight": (32, 4, 3, 3), "conv_in.bias": (32,)}})
GOOD = {"unet.conv_in.lora_A.weight": torch.ones(2, 4, 3, 3), "unet.conv_in.lora_B.weight": torch.ones(32, 2, 1, 1)}


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    yield
    STYLE_REGISTRY.clear()


def _catalog(root: Path | None = None, **settings: Any) -> StyleCatalog:
    return StyleCatalog(Settings(lora_root=root, **settings), Registry({}), None, layers=LAYERS)


def _save(path: Path, state: dict[str, torch.Tensor] = GOOD) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def _refusals(catalog: StyleCatalog) -> dict[str, str | None]:
    return {name: style.refusal for name, style in catalog.items() if style.source == "lora_root"}


def test_files_of_every_suffix_and_in_linked_folders_are_styles(tmp_path: Path) -> None:
    root = tmp_path / "loras"
    for name in ("a.safetensors", "B.SAFETENSORS", "c.pt", "d.ckpt", "e.bin", "below/f.safetensors"):
        _save(root / name)
    _save(tmp_path / "elsewhere/g.safetensors")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "below/back").symlink_to(root)
    (root / "notes.txt").write_text("no LoRA")
    assert _refusals(_catalog(root)) == dict.fromkeys(["a", "B", "c", "d", "e", "below/f", "linked/g"])


def test_files_with_the_same_name_keep_their_suffix_except_the_first(tmp_path: Path) -> None:
    for suffix in (".pt", ".safetensors", ".bin"):
        _save(tmp_path / f"twice{suffix}")
    catalog = _catalog(tmp_path)
    assert {name: style.path.suffix for name, style in catalog.items() if style.source == "lora_root"} == {
        "twice": ".safetensors",
        "twice.pt": ".pt",
        "twice.bin": ".bin",
    }


def test_a_file_is_usable_only_if_every_layer_fits(tmp_path: Path) -> None:
    _save(tmp_path / "good.safetensors")
    _save(tmp_path / "wide.safetensors", GOOD | {"unet.conv_in.lora_B.weight": torch.ones(64, 2, 1, 1)})
    _save(tmp_path / "odd.safetensors", GOOD | {"unet.conv_in.mystery": torch.ones(1)})
    _save(tmp_path / "oft.safetensors", {"unet.conv_in.oft_R.weight": torch.ones(1, 2)})
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    refusals = _refusals(_catalog(tmp_path))
    assert refusals.pop("good") is None
    reasons = {
        name: (refusal or "").removeprefix(f"{name}.safetensors does not fit this checkpoint: ")
        for name, refusal in refusals.items()
    }
    assert reasons == {
        "wide": "its tensor 'unet.conv_in.lora_A.weight' is for a layer of shape 64×4×3×3, and this checkpoint's is "
        "32×4×3×3; take a LoRA made for the checkpoint's family",
        "odd": "its tensor 'unet.conv_in.mystery' is of an unknown kind; take a file that kohya-ss, LyCORIS, "
        "OneTrainer, PEFT, diffusers or ComfyUI wrote",
        "oft": "its tensor 'unet.conv_in.oft_R.weight' is of OFT, which is not drawn here; take a LoRA, LoHa, LoKr, "
        "DoRA or full-difference file",
        "broken": f"{tmp_path}/broken.safetensors is not a complete safetensors file: it has 2 bytes, and the length "
        "of its header alone takes 8; copy or download it again",
    }


def test_a_style_needs_only_its_documented_arguments(tmp_path: Path) -> None:
    path = str(_save(tmp_path / "cyberpunk_sdxl.safetensors"))
    STYLE_REGISTRY["cyberpunk"] = StyleDef(adapter_name="cyberpunk_sdxl", lora_path=path, levels=[0.3, 0.5, 0.7, 1.0])
    STYLE_REGISTRY["other"] = StyleDef("own", "Of its own", path, "another", [1.0], required_cross_attention_dim=2048)
    styles = {style.id: (style.title, style.levels) for style in _catalog().values()}
    assert styles["cyberpunk"] == ("cyberpunk", (0.3, 0.5, 0.7, 1.0))
    assert styles["own"] == ("Of its own", (1.0,))
    with pytest.raises(TypeError, match="StyleDef needs lora_path and adapter_name"):
        StyleDef(levels=[1.0])
    STYLE_REGISTRY["without"] = StyleDef(adapter_name="x", lora_path=path)
    assert _catalog()["without"].refusal == "it has no levels: give at least one strength"
