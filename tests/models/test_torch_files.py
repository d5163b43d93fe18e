"""Reading of torch files in both formats, without running anything from their pickles."""

from __future__ import annotations

import builtins
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from imagegen_core import ModelLoadError
from imagegen_core.models.headers import read_header
from imagegen_core.models.inspect import describe
from imagegen_core.models.tensors import Tensor

BASE = torch.arange(24, dtype=torch.float32)
WEIGHTS: dict[str, Any] = {
    "half": torch.zeros(2, 3, dtype=torch.float16),
    "bf16": torch.zeros(3, dtype=torch.bfloat16),
    "fp8": torch.zeros(4, dtype=torch.float8_e4m3fn),
    "uint16": torch.zeros(4, dtype=torch.uint16),
    "number": torch.tensor(3),
    "parameter": torch.nn.Parameter(torch.zeros(5)),
    "view": BASE.view(4, 6)[1:3, ::2].T,
    "base": BASE,
    "empty": torch.zeros(0, 7),
}
FORMATS = {"torch": {}, "torch-legacy": {"_use_new_zipfile_serialization": False}}


def _saved(content: object, file_format: str = "torch") -> bytes:
    buffer = BytesIO()
    torch.save(content, buffer, **FORMATS[file_format])
    return buffer.getvalue()


def _described(weights: dict[str, Any]) -> dict[str, Tensor]:
    return {
        name: Tensor(str(weight.dtype).removeprefix("torch."), tuple(weight.shape)) for name, weight in weights.items()
    }


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin", ""])
def test_names_types_and_shapes_are_read_as_saved(tmp_path: Path, file_format: str, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(_saved(OrderedDict(WEIGHTS), file_format))
    header = read_header(path)
    assert (header.format, dict(header.tensors)) == (file_format, _described(WEIGHTS))


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_training_checkpoint_is_read_from_its_state_dict(tmp_path: Path, file_format: str) -> None:
    run = {
        "epoch": 3,
        "global_step": 2**40,
        "best": np.float64(0.5),
        "device": torch.device("cpu"),
        "size": torch.Size([3]),
        "seen": {1, 2},
        "names": ["é", b"bytes", (1.5, None, True, False)],
        "state_dict": OrderedDict(WEIGHTS),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, (1, 2): "a tuple as a key"}],
    }
    (tmp_path / "a.ckpt").write_bytes(_saved(run, file_format))
    assert dict(read_header(tmp_path / "a.ckpt").tensors) == _described(WEIGHTS)


class _Call:
    """An object that pickles as a function call."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


class _CustomClass:
    """A custom class, as in the pickles of old training runs."""


FOREIGN_OBJECTS = {
    "posix.system": _Call(os.system, "touch ran"),
    "builtins.eval": _Call(builtins.eval, "open('ran', 'w')"),
    "builtins.getattr": _Call(getattr, "", "join"),
    "subprocess.Popen": _Call(subprocess.Popen, ["touch", "ran"]),
    f"{__name__}._CustomClass": _CustomClass(),
    "torch.nn.modules.linear.Linear": torch.nn.Linear(2, 2),
}


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize(("name", "foreign_object"), FOREIGN_OBJECTS.items(), ids=FOREIGN_OBJECTS)
def test_globals_that_weights_do_not_need_are_refused_by_name(
    tmp_path: Path, file_format: str, name: str, foreign_object: object
) -> None:
    (tmp_path / "a.ckpt").write_bytes(_saved({"state_dict": {"w": torch.zeros(2)}, "x": foreign_object}, file_format))
    with pytest.raises(ModelLoadError, match=f"a.ckpt is refused: its pickle asks for {name}, .*safetensors"):
        describe(tmp_path / "a.ckpt")
    assert os.listdir(tmp_path) == ["a.ckpt"]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors", "a"])
def test_a_bare_pickle_of_any_protocol_is_refused_without_running(tmp_path: Path, protocol: int, name: str) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(FOREIGN_OBJECTS["posix.system"], protocol))
    with pytest.raises(ModelLoadError, match=r"posix\.system" if name == "a.ckpt" or protocol > 1 else "header"):
        describe(tmp_path / name)
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (b"\x80\x02ctorch\nFloatStorage\n.", "is a pickle of something else"),
        (b"\x80\x02}q\x00(X\x01\x00\x00\x00aK\x01u.", "is a pickle of something else"),
        (b"\x80\x02ios\nabort\n.", "asks for os.abort"),
        (b"\x80\x02ccollections\nOrderedDict\n(X\x01\x00\x00\x00atR.", "makes a dict from a value that is not a dict"),
        (b"\x80\x02ctorch\nfloat16\n)R.", "calls torch.float16, which is not a function"),
        (b"\x80\x02X\x01\x00\x00\x00a)R.", "calls a value that is not a function"),
        (b"\x80\x02ccollections\nOrderedDict\n}b.", "changes a forbidden value"),
        (b"\x80\x02X\x01\x00\x00\x00aQ.", "refers to a value that is not a storage"),
        (b"\x80\x02)K\x01a.", "appends to a value that is not a list"),
        (b"\x80\x02]K\x01K\x02s.", "sets an item of a value that is not a dict"),
        (b"\x80\x02}(K\x01u.", "its pickle is damaged"),
        (b"\x80\x02]r\xff\xff\xff\x7fh\x09.", "its pickle is damaged"),
        (b"\x80\x02\x82\x01.", "has an instruction .* that torch.save never writes"),
        (b"\x80\x04K\x01\x94.", "is of another protocol than the 2 that torch.save writes"),
        (b"\x80\x02X\xff\xff\xff\xffabc", "its pickle is cut short"),
        (b"\x80\x02cos\nsys", "its pickle is cut short"),
        (b"\x80\x02" + b"K\x01" + b"\x85" * 200_000 + b"0.", "never writes"),
        (b"\x80\x02}K\x01" + b"\x85" * 200_000 + b"K\x02s.", "is a pickle of something else"),
        (b"garbage", "has an instruction"),
    ],
)
def test_a_pickle_that_is_not_a_torch_file_is_refused(tmp_path: Path, program: bytes, words: str) -> None:
    (tmp_path / "a.ckpt").write_bytes(program)
    with pytest.raises(ModelLoadError, match=words) as caught:
        read_header(tmp_path / "a.ckpt")
    assert "\n" not in str(caught.value)


def _save_zip(program: bytes, tmp_path: Path) -> Path:
    """Write a zip torch file with a handwritten pickle and a storage of 24 bytes."""
    with zipfile.ZipFile(tmp_path / "a.ckpt", "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/data/0", bytes(24))
    return tmp_path / "a.ckpt"


def _tensor_pickle(elements: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    """Return the pickle of ``{"w": tensor}`` as torch writes it, with a float32 storage."""
    counts = [
        b"(" + b"".join(b"J" + value.to_bytes(4, "little", signed=True) for value in values) + b"t"
        for values in (shape, strides)
    ]
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK" + bytes(
        [elements]
    )
    arguments = b"(" + storage + b"tQK" + bytes([offset]) + b"".join(counts) + b"\x89}t"
    return b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rs."


@pytest.mark.parametrize(
    ("elements", "offset", "shape", "strides", "words"),
    [
        (6, 0, (2, 3), (3, 1), None),
        (7, 0, (2, 3), (3, 1), "its storage '0' has 24 bytes, and its pickle counts on more"),
        (6, 1, (2, 3), (3, 1), "reaches beyond its storage of 6 elements"),
        (6, 0, (2, 3), (4, 1), "reaches beyond its storage"),
        (6, 0, (2, 3), (1,), "shape and strides differ in length"),
        (6, 0, (-2, 3), (3, 1), "shape is not a list of sizes"),
        (6, 0, (2**30, 2**30), (0, 0), "repeats its storage"),
    ],
)
def test_a_tensor_lies_within_its_storage(
    tmp_path: Path, elements: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], words: str | None
) -> None:
    path = _save_zip(_tensor_pickle(elements, offset, shape, strides), tmp_path)
    if words is None:
        assert read_header(path).tensors == {"w": Tensor("float32", shape)}
        return
    with pytest.raises(ModelLoadError, match=words):
        read_header(path)


@pytest.mark.parametrize("key", ["params", "again"])
def test_a_dict_that_contains_itself_is_read(tmp_path: Path, key: str) -> None:
    content: dict[str, object] = {"w": torch.zeros(2)}
    content[key] = content
    (tmp_path / "a.ckpt").write_bytes(_saved(content))
    assert read_header(tmp_path / "a.ckpt").tensors.keys() == {"w"}


def test_a_zip_archive_without_a_pickle_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.ckpt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ModelLoadError, match=r"a zip archive with 0 data\.pkl"):
        read_header(tmp_path / "a.ckpt")


EMBEDDING = {"string_to_token": {"*": 265}, "string_to_param": {"*": torch.zeros(2, 768)}, "name": "cat"}
CONTENTS = {file_format: _saved(EMBEDDING, file_format) for file_format in FORMATS}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutated") / "a.ckpt"


@given(file_format=st.sampled_from(list(FORMATS)), cut=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused(scratch: Path, file_format: str, cut: float) -> None:
    content = CONTENTS[file_format]
    scratch.write_bytes(content[: int(cut * len(content))])
    with pytest.raises(ModelLoadError):
        describe(scratch)


@given(
    file_format=st.sampled_from(list(FORMATS)),
    flips=st.lists(st.tuples(st.integers(0, 500), st.integers(1, 255), st.booleans()), min_size=1, max_size=3),
)
def test_flipped_bytes_raise_no_other_error(
    scratch: Path, file_format: str, flips: list[tuple[int, int, bool]]
) -> None:
    content = bytearray(CONTENTS[file_format])
    for position, change, from_the_end in flips:
        content[-position if from_the_end else position] ^= change
    scratch.write_bytes(content)
    try:
        assert describe(scratch).kind == "embedding"
    except ModelLoadError as error:
        assert "\n" not in str(error)


_NAMES = (b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nSize\n", b"ccollections\nOrderedDict\n", b"ctorch\nint8\n")
_TEXT = b"X\x07\x00\x00\x00storage"
_FRAGMENTS = [
    *_NAMES,
    _TEXT,
    b"ctorch\nFloatStorage\n",
    b"q\x00",
    b"h\x00",
    b"K\x01",
    *map(bytes, zip(b"}])(tus\x85\x86\x87Rb\x81Qae0NQ")),
]


@given(program=st.lists(st.sampled_from(_FRAGMENTS), max_size=60))
def test_any_program_of_known_instructions_is_refused(scratch: Path, program: list[bytes]) -> None:
    scratch.write_bytes(b"\x80\x02" + b"".join(program) + b".")
    with pytest.raises(ModelLoadError):
        read_header(scratch)


def test_describing_a_torch_file_does_not_import_torch(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").write_bytes(CONTENTS["torch"])
    code = (
        "import sys, pathlib\nfrom imagegen_core.models.inspect import describe\n"
        "print(describe(pathlib.Path('a.ckpt')).kind, {'torch', 'safetensors', 'numpy'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert result.stdout == "embedding set()\n"
