"""A1111's prompts, written down as its documentation and its examples describe them: slow, plain, an oracle.

Weights: ``modules/prompt_parser.py``, ``parse_prompt_attention``. Chunks: ``modules/sd_hijack_clip.py``,
``tokenize_line``, with ``comma_padding_backtrack`` at its default of 20. It differs where A1111 contradicts what it
documents: ``BREAK`` within brackets begins a chunk as well, an embedding's vectors go where its placeholders go, and an
embedding's name is no part of a longer word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

CHUNK = 75
REACH = 20
UNKNOWN = "<|endoftext|>"  # CLIP's tokenizer knows all letters, and the tests' tiny one does not
Entry = tuple[str | None, float]


def weighted(prompt: str) -> list[Entry]:  # noqa: C901 - one branch for each line of the description
    """Texts and their weights; a text of None is a BREAK."""
    entries: list[list[Any]] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def close(bracket: str, factor: float) -> None:
        for entry in entries[opened[bracket].pop() :]:
            entry[1] *= factor

    at = 0
    while at < len(prompt):
        char, rest = prompt[at], prompt[at:]
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
        elif re.match(r"BREAK\b", rest) and not re.match(r"\w", prompt[at - 1 : at]):
            entries.append([None, 1.0])
            length = len("BREAK")
        else:
            entries.append([char, 1.0])
        at += length
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
    """The chunks without start, end and padding; `embeddings` has vectors by name."""
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
        at = 0
        while at < len(ids):
            if ids[at] == comma:
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
            begins_word = at == 0 or tokenizer.convert_ids_to_tokens(ids[at - 1]).endswith(("</w>", UNKNOWN))
            name, vectors = next(
                ((name, vectors) for name, vectors in names if begins_word and ids[at : at + len(name)] == name),
                (None, None),
            )
            if name is None:
                chunk.ids.append(ids[at])
                chunk.weights.append(weight)
                at += 1
                continue
            if len(chunk.ids) + len(vectors) > CHUNK:
                done.append(chunk)
                chunk, last_comma = Chunk(), -1
            chunk.vectors[len(chunk.ids)] = vectors
            chunk.ids += [0] * len(vectors)
            chunk.weights += [weight] * len(vectors)
            at += len(name)
    return [*done, chunk] if chunk.ids or not done else done
