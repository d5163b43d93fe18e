"""The format of GGUF files: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from imagegen_core import Description, Format, ModelLoadError, Registry

NAME = "gguf"
_MAGIC = b"GGUF"


def describe(path: Path) -> Description | None:
    """Describe a GGUF file by its table of tensors; return None for another path.

    Raises:
        ModelLoadError: The file is damaged.
    """
    if not path.is_file() or _start(path) != _MAGIC:
        return None
    from gguf import GGUFReader

    try:
        tensors = GGUFReader(path).tensors
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError) as error:
        raise ModelLoadError(f"{path} is a damaged GGUF file ({error}): download it again") from error
    shapes = {tensor.name: tuple(int(extent) for extent in reversed(tensor.shape)) for tensor in tensors}
    types: Counter[str] = Counter()
    for tensor in tensors:
        types[tensor.tensor_type.name.lower()] += int(tensor.n_elements)
    return Description(
        kind="checkpoint",
        layout=NAME,
        family=Registry.discover().family_of(shapes),
        path=path,
        format=NAME,
        size=path.stat().st_size,
        dtypes=tuple(name for name, _ in types.most_common()),
        parameters=types.total(),
    )


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(_MAGIC))


FORMAT = Format(name=NAME, title="GGUF file", package="imagegen-sdcpp", describe=describe, suffixes=(".gguf",))
