"""What a safetensors header tells, and that one which lies, or was cut or changed, is refused in one sentence."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from hypothesis import given
from hypothesis import strategies as some
from safetensors.torch import save, save_file

from imagegen_core import ModelLoadError
from imagegen_core.models.description import Description
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


def test_names_types_shapes_and_metadata_are_those_that_were_saved(tmp_path: Path) -> None:
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
    "not JSON": (b"{nonsense", 0, "its header is no JSON object"),
    "not UTF-8": (b'{"\xff": 1}', 0, "its header is no JSON object"),
    "no object": (b"[1, 2, 3]", 0, "does not begin with '{'"),
    "nested beyond measure": (b'{"a":' + b"[" * 100_000, 0, "its header is no JSON object"),
    "named twice": (b'{"a": 1, "a": 2}', 0, "names something twice"),
    "metadata": ({"__metadata__": {"a": 1}, "a": ENTRY}, 12, "its __metadata__ is no object of texts"),
    "no entry": ({"a": 3}, 12, "tensor 'a' is not described by dtype, shape and data_offsets"),
    "half an entry": ({"a": {"dtype": "F16"}}, 12, "tensor 'a' is not described by"),
    "dtype": ({"a": {**ENTRY, "dtype": "F17"}}, 12, "tensor 'a' has the unknown dtype 'F17'"),
    "negative": ({"a": {**ENTRY, "shape": [-2, -3]}}, 12, "shape that is no list of counts"),
    "true is no number": ({"a": {**ENTRY, "shape": [True, 6]}}, 12, "shape that is no list of counts"),
    "shape": ({"a": {**ENTRY, "shape": [2, 4]}}, 12, "has 12 bytes, which its dtype and shape do not fill"),
    "endless": ({"a": {**ENTRY, "shape": [10**9] * 50_000}}, 12, "which its dtype and shape do not fill"),
    "offsets": ({"a": {**ENTRY, "data_offsets": [12, 0]}}, 12, "data_offsets that are no begin and end"),
    "one offset": ({"a": {**ENTRY, "data_offsets": [12]}}, 12, "data_offsets that are no begin and end"),
    "outside": ({"a": {**ENTRY, "data_offsets": [6, 18]}}, 12, "ends at byte 18 of the data, and the file holds 12"),
    "overlap": ({"a": ENTRY, "b": {**ENTRY, "data_offsets": [6, 18]}}, 18, "tensor 'b' overlaps the one before it"),
    "hole": ({"a": ENTRY, "b": {**ENTRY, "data_offsets": [14, 26]}}, 26, "tensor 'b' leaves a hole before it"),
    "too much": ({"a": ENTRY}, 14, "its tensors end at byte 12 of the data, and the file holds 14"),
    "too long a name": ({"a" * 10_000 + "\n": 3}, 12, r"tensor 'a+\.\.\. is not described"),
}


@pytest.mark.parametrize(("header", "data", "words"), WRONG.values(), ids=WRONG)
def test_a_header_that_lies_is_refused(tmp_path: Path, header: bytes | dict[str, Any], data: int, words: str) -> None:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = save_raw(tmp_path / "a.safetensors", content, data)
    with pytest.raises(ModelLoadError, match=words) as caught:
        read_header(path)
    assert str(caught.value).startswith(f"{path} is no whole safetensors file: ")
    assert str(caught.value).endswith("; copy or download it anew")
    assert len(str(caught.value)) < 400
    with pytest.raises(safetensors.SafetensorError):  # the format's own reader is no more lenient
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
def test_what_is_no_such_file_is_told_what_to_do(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(ModelLoadError, match=words):
        read_header(tmp_path / "a.safetensors")


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "gone")
    for path in (tmp_path / "link.safetensors", tmp_path / "gone", Path("/dev/null")):
        with pytest.raises(ModelLoadError, match=f"{re.escape(str(path))} is no file: name a weights file"):
            describe(path)


LORA = save(WEIGHTS, metadata={"modelspec.resolution": "512x512"})
HEADER = 8 + int.from_bytes(LORA[:8], "little")


def _is_told_or_refused(content: bytes, path: Path) -> bool:
    """Whether the file is described; if it is not, the error is ours."""
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


@given(length=some.integers(0, len(LORA) - 1))
def test_a_file_cut_short_anywhere_is_refused(scratch: Path, length: int) -> None:
    assert not _is_told_or_refused(LORA[:length], scratch)


@given(flips=some.lists(some.tuples(some.integers(0, HEADER - 1), some.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bytes_end_in_no_other_error(scratch: Path, flips: list[tuple[int, int]]) -> None:
    content = bytearray(LORA)
    for position, change in flips:
        content[position] ^= change
    _is_told_or_refused(bytes(content), scratch)


@given(length=some.integers(0, 2**64 - 1).filter(lambda length: length != HEADER - 8))
def test_another_header_length_is_refused(scratch: Path, length: int) -> None:
    assert not _is_told_or_refused(length.to_bytes(8, "little") + LORA[8:], scratch)


@given(shift=some.integers(-(2**70), 2**70).filter(bool), which=some.integers(0, 7))
def test_a_shifted_offset_is_refused(scratch: Path, shift: int, which: int) -> None:
    header = json.loads(LORA[8:HEADER])
    entries = [entry for name, entry in header.items() if name != "__metadata__"]
    entries[which // 2]["data_offsets"][which % 2] += shift
    changed = json.dumps(header).encode()
    assert not _is_told_or_refused(len(changed).to_bytes(8, "little") + changed + LORA[HEADER:], scratch)


_JSON = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=5),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(field=some.sampled_from(["dtype", "shape", "data_offsets", "__metadata__", None]), value=_JSON)
def test_any_value_anywhere_ends_in_no_other_error(scratch: Path, field: str | None, value: object) -> None:
    header = json.loads(LORA[8:HEADER])
    if field in (None, "__metadata__"):
        header[field or "none"] = value
    else:
        header["none"][field] = value
    changed = json.dumps(header).encode()
    _is_told_or_refused(len(changed).to_bytes(8, "little") + changed + LORA[HEADER:], scratch)
