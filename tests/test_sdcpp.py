"""The stable-diffusion.cpp example: it draws GGUF and safetensors files, behind the backends of their families."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest

from imagegen_core import Registry, Settings
from imagegen_core.models.inspect import Recognized, recognize
from imagegen_core.resolution.backends import backends_for, select_backend

try:
    version("imagegen-sdcpp")
except PackageNotFoundError:
    pytest.skip("needs the example: pip install ./examples/imagegen-sdcpp", allow_module_level=True)
import gguf

UNET = "model.diffusion_model."
SD15 = {
    f"{UNET}input_blocks.0.0.weight": (8, 4, 3, 3),
    f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (8, 768),
    f"{UNET}output_blocks.0.0.in_layers.0.weight": (8,),
    f"{UNET}out.2.weight": (4, 8, 3, 3),
    "first_stage_model.decoder.conv_in.weight": (8, 4, 3, 3),
    "cond_stage_model.transformer.text_model.final_layer_norm.weight": (8,),
}


def _save(path: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    writer = gguf.GGUFWriter(path, "diffusion")
    for name, shape in shapes.items():
        writer.add_tensor(name, np.zeros(shape, np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_can_be_drawn_by_it_and_goes_to_its_family_first(tmp_path: Path) -> None:
    path, registry = _save(tmp_path / "model.gguf", SD15), Registry.discover()
    assert recognize(path) == Recognized("gguf", "sd15")
    assert select_backend(registry, Settings(model=str(path))).name == "sd15"
    assert select_backend(registry, Settings(model=str(path), backends=("sdcpp",))).name == "sdcpp"


def test_it_replaces_no_other_backend_by_itself() -> None:
    registry = Registry.discover()
    wanted = Recognized("safetensors", "sdxl")
    assert [backend.name for backend in backends_for(registry, Settings(), wanted)][-1] == "sdcpp"
    preferred = backends_for(registry, Settings(backends=("sdcpp",)), wanted)
    assert preferred[0].name == "sdcpp"
