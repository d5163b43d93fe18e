"""Read the tensor table of a weights file. The first bytes decide its format, not its name."""

from __future__ import annotations

from pathlib import Path

from imagegen_core.errors import ModelLoadError
from imagegen_core.models.gguf_header import MAGIC, read_gguf
from imagegen_core.models.safetensors_header import read_safetensors
from imagegen_core.models.tensors import Header

_TORCH_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin")
_TORCH = (b"PK", b"\x80")  # a zip archive, or a pickle
# The first bytes of files that are not weights, and the advice for each.
_NO_WEIGHTS = {
    b"version https://git-lfs": "a Git LFS pointer in place of the weights: run `git lfs pull` in its folder",
    b"<!DOCTYPE": "a web page, not a model: download the file itself, logged in where the site asks for it",
    b"<html": "a web page, not a model: download the file itself, logged in where the site asks for it",
}


def read_header(path: Path) -> Header:
    """Read the tensor table of `path` without reading the weights.

    Raises:
        ModelLoadError: The file is no weights file, is damaged, or its pickle asks for more than weights need.
    """
    try:
        if not path.is_file():
            raise ModelLoadError(f"{path} is not a file: name a weights file or a diffusers-format folder")
        with path.open("rb") as file:
            start = file.read(32)
        for mark, fault in _NO_WEIGHTS.items():
            if start.lower().startswith(mark.lower()):
                raise ModelLoadError(f"{path} is {fault}")
        # A safetensors file begins with a length of 8 arbitrary bytes, and then a brace.
        is_torch = start.startswith(_TORCH) or path.suffix.lower() in _TORCH_SUFFIXES
        if start.startswith(MAGIC):
            header = read_gguf(path)
        elif start[8:9] == b"{" or not is_torch:
            header = read_safetensors(path)
        else:
            from imagegen_core.models.torch_file import read_torch

            header = read_torch(path)
    except PermissionError as error:
        raise ModelLoadError(f"Cannot read {path}: {error.strerror}; correct its permissions") from error
    except OSError as error:
        raise ModelLoadError(f"Cannot read {path}: {error.strerror or error}; check the disk it lies on") from error
    if not header.tensors:
        raise ModelLoadError(f"{path} holds no tensors: name a file with a model's weights")
    return header
