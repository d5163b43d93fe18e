"""CLIP's tokenizer for single-file checkpoints, from this machine or else from the hub; such files contain none."""

from __future__ import annotations

import gzip
import importlib.util
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from imagegen_core.errors import ModelLoadError

_HUB_NAME = "openai/clip-vit-large-patch14"
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
