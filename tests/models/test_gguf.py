"""GGUF files are told by their headers, as the format's own library reads them."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from imagegen_core import ModelLoadError
from imagegen_core.cli import main
from imagegen_core.models.gguf_header import QUANTIZATIONS
from imagegen_core.models.headers import read_header
from imagegen_core.models.inspect import describe
from tests.gguf_files import Kind, finish, random_blocks, save_gguf

UNET = {
    "input_blocks.0.0.weight": (8, 4, 3, 3),
    "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (32, 768),
    "output_blocks.0.0.in_layers.0.weight": (8,),
    "out.2.weight": (4, 8, 3, 3),
}
WHOLE = {f"model.diffusion_model.{name}": shape for name, shape in UNET.items()} | {
    "first_stage_model.decoder.conv_in.weight": (8, 4, 3, 3),
    "cond_stage_model.transformer.text_model.final_layer_norm.weight": (8,),
}


def _state(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def test_the_table_of_blocks_is_the_librarys() -> None:
    for name, block in QUANTIZATIONS.items():
        assert gguf.GGML_QUANT_SIZES[Kind[name.upper()]] == (block.elements, block.size)


def test_a_header_is_that_of_the_library(tmp_path: Path) -> None:
    save_gguf(tmp_path / "a.gguf", _state(WHOLE), Kind.Q5_1)
    header, reader = read_header(tmp_path / "a.gguf"), gguf.GGUFReader(tmp_path / "a.gguf")
    assert header.metadata["general.architecture"] == "sdxl"
    for tensor in reader.tensors:
        assert header.tensors[tensor.name].shape == WHOLE[tensor.name]
        assert header.spans[tensor.name].begin == tensor.data_offset


@pytest.mark.parametrize(("shapes", "kind"), [(UNET, "unet"), (WHOLE, "checkpoint")])
def test_a_file_tells_its_family_and_quantization(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], shapes: dict[str, tuple[int, ...]], kind: str
) -> None:
    path = tmp_path / "model.gguf"
    save_gguf(path, _state(shapes), Kind.Q8_0)
    description = describe(path)
    assert (description.kind, description.family, description.format) == (kind, "sd15", "gguf")
    assert description.dtypes == ("q8_0", "float32")
    with pytest.raises(SystemExit):
        main(["models", "inspect", str(path), "--json"])
    assert "sd15" in json.loads(capsys.readouterr().out)["loaded_by"]


def test_files_below_the_root_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_gguf(tmp_path / "model.gguf", _state(WHOLE))
    monkeypatch.setenv("MODEL_ROOT", str(tmp_path))
    with pytest.raises(SystemExit):
        main(["models", "list", "--json"])
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert (rows["model.gguf"]["kind"], rows["model.gguf"]["family"]) == ("checkpoint", "sd15")


def test_a_tensor_stored_in_another_shape_has_its_own(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "flux")
    writer.add_array("comfy.gguf.orig_shape.w", [16, 48])
    writer.add_tensor("w", random_blocks(Kind.Q4_K, 3, 256), raw_dtype=Kind.Q4_K)
    finish(writer)
    assert read_header(tmp_path / "a.gguf").tensors["w"].shape == (16, 48)


def test_an_unknown_quantization_is_refused_by_the_tensors_name(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "flux")
    writer.add_tensor("the.weight", np.zeros((2, 66), np.uint8), raw_dtype=Kind.TQ2_0)
    finish(writer)
    with pytest.raises(ModelLoadError, match=r"a\.gguf stores the tensor 'the\.weight' as GGML's type 35, a quantiz"):
        read_header(tmp_path / "a.gguf")


@pytest.mark.parametrize("length", [4, 20, 100, 300, -1])
def test_a_cut_file_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "model.gguf"
    save_gguf(path, _state(WHOLE))
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ModelLoadError, match="is not a complete GGUF file: .*; copy or download it again"):
        describe(path)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    save_gguf(path, _state({"w": (2, 32)}))
    return path


@given(place=st.integers(0, 400), value=st.integers(0, 255))
def test_a_changed_byte_gives_a_header_or_a_sentence(sound: Path, place: int, value: int) -> None:
    content = bytearray(sound.read_bytes())
    content[place % len(content)] = value
    changed = sound.with_name("changed.gguf")
    changed.write_bytes(content)
    try:
        read_header(changed)
    except ModelLoadError as error:
        assert str(changed) in str(error)
