"""Tokenizers for single-file checkpoints, which contain none: CLIP's and T5's."""

from __future__ import annotations

import gzip
import importlib.util
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from imagegen_core.errors import ModelLoadError, first_line

_HUB_NAME = "openai/clip-vit-large-patch14"
_T5_HUB_NAME = "google/t5-v1_1-xxl"
_WHEELS = ("open_clip", "clip")
_MERGES_FILE = "bpe_simple_vocab_16e6.txt.gz"
_MERGES = 49152 - 256 - 2  # CLIP's own tokenizer takes this many from the file, after its first line
_START, _END = "<|startoftext|>", "<|endoftext|>"


def find_tokenizer(base: Path | None, name: str, pad_token: str) -> Any:
    """Return CLIP's tokenizer from a configured folder, the hub's local cache, an installed wheel, or the hub.

    Args:
        base: A diffusers-format folder to look into first, or None.
        name: The tokenizer's folder in it, ``tokenizer`` or ``tokenizer_2``.
        pad_token: The token to pad prompts with; a tokenizer from `base` keeps its own.

    Raises:
        ModelLoadError: None of the four places has the tokenizer; the message names them.
    """
    from transformers import CLIPTokenizer

    if base is not None and (base / name).is_dir():
        return CLIPTokenizer.from_pretrained(base / name, local_files_only=True)
    places: tuple[Callable[[], Any], ...] = (
        lambda: _from_hub(cached=True),
        _from_wheel,
        lambda: _from_hub(cached=False),
    )
    for place in places:
        try:
            tokenizer = place()
        except (OSError, ValueError):  # the hub's client raises these for files that it cannot get
            continue
        tokenizer.pad_token = pad_token
        return tokenizer
    raise ModelLoadError(
        f"No CLIP tokenizer for a single-file checkpoint: BASE_MODEL {f'({base}) ' if base else ''}has none, the hub's "
        f"local cache does not hold {_HUB_NAME}, neither {' nor '.join(_WHEELS)} is installed, and the hub cannot be "
        "reached; pip install --no-deps open_clip_torch, or set BASE_MODEL to a diffusers-format folder of this family"
    )


def find_t5_tokenizer(base: Path | None, name: str) -> Any:
    """Return T5's tokenizer from a configured folder, or from the hub's local cache.

    Args:
        base: A diffusers-format folder to look into first, or None.
        name: The tokenizer's folder in it, such as ``tokenizer_3``.

    Raises:
        ModelLoadError: Neither place has the tokenizer.
    """
    from transformers import T5TokenizerFast

    folder = None if base is None or not (base / name).is_dir() else base / name
    try:
        return T5TokenizerFast.from_pretrained(folder or _T5_HUB_NAME, local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        raise ModelLoadError(
            f"No T5 tokenizer for a single-file checkpoint: BASE_MODEL {f'({base}) ' if base else ''}has none, and the "
            f"hub's local cache does not hold {_T5_HUB_NAME} ({first_line(error)}); set BASE_MODEL to a "
            "diffusers-format folder of this family"
        ) from error


def _from_hub(*, cached: bool) -> Any:
    """Load the tokenizer from the hub's files.

    The download raises for a missing file; transformers itself would return an empty tokenizer.
    """
    from huggingface_hub import hf_hub_download

    files = [hf_hub_download(_HUB_NAME, name, local_files_only=cached) for name in ("vocab.json", "merges.txt")]
    return _read(Path(files[0]).parent)


def _from_wheel() -> Any:
    """Load the tokenizer from the merges in an installed wheel, without importing it: the import needs torchvision."""
    for wheel in _WHEELS:
        spec = importlib.util.find_spec(wheel)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            merges = Path(folder, _MERGES_FILE)
            if merges.is_file():
                return _from_merges(merges)
    raise FileNotFoundError(_MERGES_FILE)


def _from_merges(file: Path) -> Any:
    lines = gzip.decompress(file.read_bytes()).decode("utf-8").split("\n")[1 : 1 + _MERGES]
    merges = [line for line in lines if line]
    letters = _byte_letters()
    ends = [f"{letter}</w>" for letter in letters]
    tokens = [*letters, *ends, *("".join(merge.split()) for merge in merges), _START, _END]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = json.dumps({token: index for index, token in enumerate(tokens)})
        Path(folder, "vocab.json").write_text(vocabulary, encoding="utf-8")
        Path(folder, "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
        return _read(Path(folder))


def _read(folder: Path) -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(
        folder, bos_token=_START, eos_token=_END, unk_token=_END, pad_token=_END, model_max_length=77
    )


def _byte_letters() -> list[str]:
    """Return a letter for each byte, in the order of CLIP's vocabulary (openai/CLIP, ``simple_tokenizer.py``)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [*map(chr, printable), *(chr(256 + index) for index in range(len(others)))]
