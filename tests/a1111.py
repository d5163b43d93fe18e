"""A1111's prompt rules, as its documentation and examples describe them: a slow, plain oracle.

Weights: ``modules/prompt_parser.py``, ``parse_prompt_attention``. Chunks: ``modules/sd_hijack_clip.py``,
``tokenize_line``, with ``comma_padding_backtrack`` at its default of 20. The oracle differs where A1111 contradicts its
documentation. ``BREAK`` within brackets also begins a chunk. An embedding's vectors move with its placeholders. An
embedding's name never matches a part of a longer word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

CHUNK = 75
REACH = 20
UNKNOWN = "<|endoftext|>"  # CLIP's tokenizer knows all letters; the tests' tiny tokenizer does not
Entry = tuple[str | None, float]


def weighted(prompt: str) -> list[Entry]:  # noqa: C901 - a branch for each rule
    """Return the texts and their weights; a text of None is a BREAK."""
    entries: list[list[Any]] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def close(bracket: str, factor: float) -> None:
        for entry in entries[opened[bracket].pop() :]:
            entry[1] *= factor

    position = 0
    while position < len(prompt):
        char, rest = prompt[position], prompt[position:]
        length = 1
        if char == "\\":
            length = 2 if rest[1:2] and rest[1:2] in "()[]\\" else 1
            entries.append([rest[1:length], 1.0])
        elif char in "([":
            opened[char].append(len(entries))
        elif opened["("] and (weight := re.match(r":\s*([+-]?(\d+\.?\d*|\.\d+))\s*\)", rest)):
            close("(", float(weight[1]))
            length = weight.end()
        elif char == ")" and opened["("]:
            close("(", 1.1)
        elif char == "]" and opened["["]:
            close("[", 1 / 1.1)
        elif re.match(r"BREAK\b", rest) and not re.match(r"\w", prompt[position - 1 : position]):
            entries.append([None, 1.0])
            length = len("BREAK")
        else:
            entries.append([char, 1.0])
        position += length
    for bracket, factor in (("(", 1.1), ("[", 1 / 1.1)):
        while opened[bracket]:
            opened[bracket].sort(reverse=True)  # the outermost first
            close(bracket, factor)
    return _merged(entries)


def _merged(entries: list[list[Any]]) -> list[Entry]:
    merged: list[Entry] = []
    for text, weight in entries:
        if merged and text is not None and merged[-1][0] is not None and merged[-1][1] == weight:
            merged[-1] = (merged[-1][0] + text, weight)
        else:
            merged.append((text, 1.0 if text is None else weight))
    return merged


class Chunk:
    def __init__(self) -> None:
        self.ids: list[int] = []
        self.weights: list[float] = []
        self.vectors: dict[int, Any] = {}


def chunks(tokenizer: Any, prompt: str, embeddings: Mapping[str, Any]) -> list[Chunk]:
    """Return the chunks without start, end and padding; `embeddings` has vectors by name."""
    comma = tokenizer.get_vocab()[",</w>"]
    names = [(tokenizer(name, add_special_tokens=False).input_ids, vectors) for name, vectors in embeddings.items()]
    names.sort(key=lambda name: -len(name[0]))
    done: list[Chunk] = []
    chunk, last_comma = Chunk(), -1
    for text, weight in weighted(prompt):
        if text is None:
            done.append(chunk)
            chunk, last_comma = Chunk(), -1
            continue
        ids = tokenizer(text, add_special_tokens=False).input_ids
        position = 0
        while position < len(ids):
            if ids[position] == comma:
                last_comma = len(chunk.ids)
            elif len(chunk.ids) == CHUNK and last_comma != -1 and CHUNK - last_comma <= REACH:
                moved, cut = Chunk(), last_comma + 1
                moved.ids, moved.weights = chunk.ids[cut:], chunk.weights[cut:]
                moved.vectors = {i - cut: vectors for i, vectors in chunk.vectors.items() if i >= cut}
                chunk.ids, chunk.weights = chunk.ids[:cut], chunk.weights[:cut]
                chunk.vectors = {i: vectors for i, vectors in chunk.vectors.items() if i < cut}
                done.append(chunk)
                chunk, last_comma = moved, -1
            if len(chunk.ids) == CHUNK:
                done.append(chunk)
                chunk, last_comma = Chunk(), -1
            begins_word = position == 0 or tokenizer.convert_ids_to_tokens(ids[position - 1]).endswith(
                ("</w>", UNKNOWN)
            )
            name, vectors = next(
                (
                    (name, vectors)
                    for name, vectors in names
                    if begins_word and ids[position : position + len(name)] == name
                ),
                (None, None),
            )
            if name is None:
                chunk.ids.append(ids[position])
                chunk.weights.append(weight)
                position += 1
                continue
            if len(chunk.ids) + len(vectors) > CHUNK:
                done.append(chunk)
                chunk, last_comma = Chunk(), -1
            chunk.vectors[len(chunk.ids)] = vectors
            chunk.ids += [0] * len(vectors)
            chunk.weights += [weight] * len(vectors)
            position += len(name)
    return [*done, chunk] if chunk.ids or not done else done
