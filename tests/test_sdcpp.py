"""The stable-diffusion.cpp example: GGUF files select it, and their tensors tell the family."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest

from imagegen_core import ModelLoadError, Registry, Settings
from imagegen_core.cli import main
from imagegen_core.models.inspect import Recognized, describe, recognize
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


def test_a_gguf_file_selects_the_backend(tmp_path: Path) -> None:
    path = _save(tmp_path / "model.gguf", SD15)
    assert recognize(path) == Recognized("gguf", "sd15")
    description = describe(path)
    assert (description.dtypes, description.size) == (("f16",), path.stat().st_size)
    assert description.parameters == sum(int(np.prod(shape)) for shape in SD15.values())
    assert select_backend(Registry.discover(), Settings(model=str(path))).name == "sdcpp"


def test_a_gguf_file_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _save(tmp_path / "model.gguf", SD15)
    monkeypatch.setenv("MODEL_ROOT", str(tmp_path))
    with pytest.raises(SystemExit):
        main(["models", "list", "--json"])
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert (rows["model.gguf"]["kind"], rows["model.gguf"]["family"]) == ("checkpoint", "sd15")


def test_a_damaged_gguf_file_is_refused(tmp_path: Path) -> None:
    path = _save(tmp_path / "model.gguf", SD15)
    whole = path.read_bytes()
    for length in (4, 20, 100, 400):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelLoadError, match="is a damaged GGUF file .*: download it again"):
            describe(path)


def test_it_replaces_no_other_backend_by_itself() -> None:
    registry = Registry.discover()
    wanted = Recognized("safetensors", "sdxl")
    assert [backend.name for backend in backends_for(registry, Settings(), wanted)][-1] == "sdcpp"
    preferred = backends_for(registry, Settings(backends=("sdcpp",)), wanted)
    assert preferred[0].name == "sdcpp"
