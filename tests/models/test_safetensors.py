"""Reading of safetensors headers; a wrong, cut or changed header is refused in one sentence."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from imagegen_core import ModelLoadError
from imagegen_core.description import Description
from imagegen_core.models.headers import read_header
from imagegen_core.models.inspect import describe
from imagegen_core.models.tensors import DTYPES, Tensor
from tests.models.files import save_raw

WEIGHTS = {
    "lora_unet_mid_block_attn2_to_k.lora_down.weight": torch.zeros(4, 768, dtype=torch.float16),
    "lora_unet_mid_block_attn2_to_k.lora_up.weight": torch.zeros(320, 4, dtype=torch.float16),
    "lora_unet_mid_block_attn2_to_k.alpha": torch.tensor(4.0),
    "none": torch.zeros(0, 3),
}
ENTRY = {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}


def test_names_types_shapes_and_metadata_are_read_as_saved(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "a.safetensors", metadata={"ss_network_dim": "4"})
    header = read_header(tmp_path / "a.safetensors")
    assert header.tensors == {
        name: Tensor(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)) for name, tensor in WEIGHTS.items()
    }
    assert (header.format, header.metadata) == ("safetensors", {"ss_network_dim": "4"})


def test_every_type_that_torch_saves_is_known() -> None:
    dtypes = [getattr(torch, name) for name, bits in DTYPES.values() if bits >= 8 and hasattr(torch, name)]
    assert len(dtypes) > 15
    header = save({str(dtype): torch.zeros(2, dtype=torch.uint8).view(dtype) for dtype in dtypes if dtype.itemsize < 3})
    codes = {entry["dtype"] for entry in json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")]).values()}
    assert codes <= DTYPES.keys()


WRONG: dict[str, tuple[bytes | dict[str, Any], int, str]] = {
    "not JSON": (b"{nonsense", 0, "its header is not a JSON object"),
    "not UTF-8": (b'{"\xff": 1}', 0, "its header is not a JSON object"),
    "not an object": (b"[1, 2, 3]", 0, "does not begin with '{'"),
    "nested too deeply": (b'{"a":' + b"[" * 100_000, 0, "its header is not a JSON object"),
    "duplicate name": (b'{"a": 1, "a": 2}', 0, "names something twice"),
    "metadata": ({"__metadata__": {"a": 1}, "a": ENTRY}, 12, "its __metadata__ is not an object of texts"),
    "not an entry": ({"a": 3}, 12, "tensor 'a' is not described by dtype, shape and data_offsets"),
    "half an entry": ({"a": {"dtype": "F16"}}, 12, "tensor 'a' is not described by"),
    "unknown dtype": ({"a": {**ENTRY, "dtype": "F17"}}, 12, "tensor 'a' has the unknown dtype 'F17'"),
    "negative count": ({"a": {**ENTRY, "shape": [-2, -3]}}, 12, "shape that is not a list of sizes"),
    "boolean as a count": ({"a": {**ENTRY, "shape": [True, 6]}}, 12, "shape that is not a list of sizes"),
    "wrong shape": ({"a": {**ENTRY, "shape": [2, 4]}}, 12, "has 12 bytes, which its dtype and shape do not fill"),
    "too many dimensions": ({"a": {**ENTRY, "shape": [10**9] * 50_000}}, 12, "which its dtype and shape do not fill"),
    "swapped offsets": ({"a": {**ENTRY, "data_offsets": [12, 0]}}, 12, "data_offsets that are not a begin and an end"),
    "one offset": ({"a": {**ENTRY, "data_offsets": [12]}}, 12, "data_offsets that are not a begin and an end"),
    "outside": ({"a": {**ENTRY, "data_offsets": [6, 18]}}, 12, "ends at byte 18 of the data, and the file holds 12"),
    "overlap": ({"a": ENTRY, "b": {**ENTRY, "data_offsets": [6, 18]}}, 18, "tensor 'b' overlaps the one before it"),
    "hole": ({"a": ENTRY, "b": {**ENTRY, "data_offsets": [14, 26]}}, 26, "tensor 'b' leaves a hole before it"),
    "data after the last tensor": ({"a": ENTRY}, 14, "its tensors end at byte 12 of the data, and the file holds 14"),
    "too long name": ({"a" * 10_000 + "\n": 3}, 12, r"tensor 'a+\.\.\. is not described"),
}


@pytest.mark.parametrize(("header", "data", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_header_is_refused(tmp_path: Path, header: bytes | dict[str, Any], data: int, words: str) -> None:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = save_raw(tmp_path / "a.safetensors", content, data)
    with pytest.raises(ModelLoadError, match=words) as caught:
        read_header(path)
    assert str(caught.value).startswith(f"{path} is not a complete safetensors file: ")
    assert str(caught.value).endswith("; copy or download it again")
    assert len(str(caught.value)) < 400
    with pytest.raises(safetensors.SafetensorError):  # the format's own reader refuses it too
        safetensors.safe_open(path, "pt")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it has 0 bytes, and the length of its header alone takes 8"),
        (b"\0" * 7, "it has 7 bytes"),
        ((10**9).to_bytes(8, "little") + b"{}", "a header length of 1000000000, and the format allows 100000000 bytes"),
        ((50).to_bytes(8, "little") + b'{"a"', "its header should have 50 bytes, and the file ends after 4 of them"),
        ((2).to_bytes(8, "little") + b"{}", "holds no tensors"),
        (b"version https://git-lfs.github.com/spec/v1\noid", r"is a Git LFS pointer .* `git lfs pull`"),
        (b"<!doctype html><html>", "is a web page, not a model: download the file itself"),
    ],
)
def test_a_file_of_another_format_is_refused_with_advice(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(ModelLoadError, match=words):
        read_header(tmp_path / "a.safetensors")


def test_a_path_without_a_regular_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "gone")
    for path in (tmp_path / "link.safetensors", tmp_path / "gone", Path("/dev/null")):
        with pytest.raises(ModelLoadError, match=f"{re.escape(str(path))} is not a file: name a weights file"):
            describe(path)


LORA = save(WEIGHTS, metadata={"modelspec.resolution": "512x512"})
HEADER = 8 + int.from_bytes(LORA[:8], "little")


def _is_described(content: bytes, path: Path) -> bool:
    """Return whether the file is described; the only error allowed is ModelLoadError."""
    path.write_bytes(content)
    try:
        assert isinstance(describe(path), Description)
    except ModelLoadError as error:
        assert "\n" not in str(error)
        return False
    return True


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutated") / "a.safetensors"


@given(length=st.integers(0, len(LORA) - 1))
def test_a_truncated_file_is_refused(scratch: Path, length: int) -> None:
    assert not _is_described(LORA[:length], scratch)


@given(flips=st.lists(st.tuples(st.integers(0, HEADER - 1), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bytes_raise_no_other_error(scratch: Path, flips: list[tuple[int, int]]) -> None:
    content = bytearray(LORA)
    for position, change in flips:
        content[position] ^= change
    _is_described(bytes(content), scratch)


@given(length=st.integers(0, 2**64 - 1).filter(lambda length: length != HEADER - 8))
def test_a_wrong_header_length_is_refused(scratch: Path, length: int) -> None:
    assert not _is_described(length.to_bytes(8, "little") + LORA[8:], scratch)


@given(shift=st.integers(-(2**70), 2**70).filter(bool), index=st.integers(0, 7))
def test_a_shifted_offset_is_refused(scratch: Path, shift: int, index: int) -> None:
    header = json.loads(LORA[8:HEADER])
    entries = [entry for name, entry in header.items() if name != "__metadata__"]
    entries[index // 2]["data_offsets"][index % 2] += shift
    changed = json.dumps(header).encode()
    assert not _is_described(len(changed).to_bytes(8, "little") + changed + LORA[HEADER:], scratch)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(field=st.sampled_from(["dtype", "shape", "data_offsets", "__metadata__", None]), value=_JSON)
def test_any_header_value_raises_no_other_error(scratch: Path, field: str | None, value: object) -> None:
    header = json.loads(LORA[8:HEADER])
    if field in (None, "__metadata__"):
        header[field or "none"] = value
    else:
        header["none"][field] = value
    changed = json.dumps(header).encode()
    _is_described(len(changed).to_bytes(8, "little") + changed + LORA[HEADER:], scratch)
