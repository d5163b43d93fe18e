"""A tokenizer in CLIP's format (byte-level BPE, Sennrich et al., 2016) in which each word of the captions is one token.

Any other text is encoded letter by letter.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from transformers import CLIPTokenizer

from training.scenes import caption, random_scene

_START, _END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"
_CAPTIONS = 60_000

Pieces = tuple[str, ...]


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """Build the tokenizer of this project's captions, and write its vocabulary and merges to `folder`."""
    rng = random.Random(0)
    words = set()
    for _ in range(_CAPTIONS):
        words.update(re.findall(r"[a-z]+|[0-9]|[^\sa-z0-9]+", caption(random_scene(rng), rng)))
    merges = _merges(words)
    letters = [*_byte_letters(), *(letter + _WORD_END for letter in _byte_letters())]
    vocabulary = dict.fromkeys([*letters, *("".join(merge) for merge in merges), _START, _END])
    folder.mkdir(parents=True, exist_ok=True)
    ids = {token: index for index, token in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return CLIPTokenizer.from_pretrained(
        folder, bos_token=_START, eos_token=_END, unk_token=_END, pad_token=_END, model_max_length=77
    )


def _merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Return merges that make a token of each word; pairs that most words share come first."""
    pieces: list[Pieces] = [(*word[:-1], word[-1] + _WORD_END) for word in sorted(words)]
    merges = []
    while pairs := Counter(pair for word in pieces for pair in pairwise(word)):
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        pieces = [_merged(word, best) for word in pieces]
    return merges


def _merged(word: Pieces, pair: tuple[str, str]) -> Pieces:
    merged: list[str] = []
    for piece in word:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return tuple(merged)


def _byte_letters() -> list[str]:
    """Return a printable letter for each byte, as GPT-2's and CLIP's tokenizers assign them."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    return [letters[byte] for byte in printable + others]
