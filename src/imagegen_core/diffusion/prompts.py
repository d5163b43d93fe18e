"""Prompts as people write them: weights in brackets, and as long as they like.

The syntax and what it means are A1111's (stable-diffusion-webui, ``modules/prompt_parser.py`` and
``modules/sd_hijack_clip.py``): ``(word)`` weighs 1.1 times, ``[word]`` 1.1 times less, ``(word:1.3)`` 1.3 times; a
backslash takes a bracket literally; ``BREAK`` starts a new chunk.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

_STEP = 1.1
_PIECE = re.compile(r"\\[()\[\]\\]|\(|\[|\)|\]|:\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*\)|\bBREAK\b|[^\\()\[\]:B]+|.", re.DOTALL)
_WEIGHT = re.compile(r":\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*\)")
_COMMA_REACH = 20  # a chunk that is full ends after a comma, where one is among its last so many tokens


@dataclass(frozen=True, slots=True)
class Fragment:
    """A piece of a prompt that is weighted alike; `text` of None starts a new chunk."""

    text: str | None
    weight: float = 1.0


@dataclass
class Chunk:
    """As much of a prompt as a text encoder reads at once: token ids, without start and end, and their weights."""

    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    @property
    def is_weighted(self) -> bool:
        """Whether any token weighs other than 1."""
        return any(weight != 1.0 for weight in self.weights)


def parse(prompt: str) -> list[Fragment]:
    """Split a prompt into fragments with their weights; any text is a prompt, and unbalanced brackets reach its end.

    >>> parse("a (red:1.5) [car]")
    [Fragment('a '), Fragment('red', 1.5), Fragment(' '), Fragment('car', 0.909...)]
    """
    texts: list[str | None] = []
    weights: list[float] = []
    rounds: list[int] = []
    squares: list[int] = []

    def multiply(start: int, factor: float) -> None:
        weights[start:] = [weight * factor for weight in weights[start:]]

    for piece in _PIECE.findall(prompt):
        if piece == "(":
            rounds.append(len(texts))
        elif piece == "[":
            squares.append(len(texts))
        elif rounds and (explicit := _WEIGHT.fullmatch(piece)):
            multiply(rounds.pop(), float(explicit[1]))
        elif piece == ")" and rounds:
            multiply(rounds.pop(), _STEP)
        elif piece == "]" and squares:
            multiply(squares.pop(), 1 / _STEP)
        else:
            texts.append(None if piece == "BREAK" else piece[1:] if _is_escape(piece) else piece)
            weights.append(1.0)
    for start in rounds:
        multiply(start, _STEP)
    for start in squares:
        multiply(start, 1 / _STEP)
    return list(_joined(texts, weights))


def _is_escape(piece: str) -> bool:
    return len(piece) == 2 and piece[0] == "\\"  # noqa: PLR2004 - a backslash and what it escapes


def _joined(texts: Sequence[str | None], weights: Sequence[float]) -> Iterator[Fragment]:
    """Neighbours of one weight as one fragment, so that words are tokenized whole."""
    run: list[str] = []
    for index, (text, weight) in enumerate(zip(texts, weights, strict=True)):
        if text is None:
            yield Fragment(None)
            continue
        run.append(text)
        following = index + 1
        if following == len(texts) or texts[following] is None or weights[following] != weight:
            yield Fragment("".join(run), weight)
            run = []


def chunks(tokenizer: Any, fragments: Sequence[Fragment]) -> list[Chunk]:
    """Tokenize fragments into chunks, at least one, of at most the tokenizer's length less start and end.

    Args:
        tokenizer: A CLIP tokenizer.
        fragments: What `parse` gives.
    """
    length = tokenizer.model_max_length - 2
    found = [Chunk()]
    comma = tokenizer.convert_tokens_to_ids(",</w>")
    for fragment in fragments:
        if fragment.text is None:
            found.append(Chunk())
            continue
        ids = tokenizer(fragment.text, add_special_tokens=False, verbose=False).input_ids
        for token in ids:
            if len(found[-1].ids) == length:
                found.append(_rest_after_comma(found[-1], comma))
            found[-1].ids.append(token)
            found[-1].weights.append(fragment.weight)
    return found


def _rest_after_comma(full: Chunk, comma: int) -> Chunk:
    """Take what follows the last comma off a full chunk, unless that is too much or nothing."""
    start = next((at + 1 for at in range(len(full.ids) - 1, -1, -1) if full.ids[at] == comma), 0)
    if start == 0 or len(full.ids) - start > _COMMA_REACH:
        return Chunk()
    rest = Chunk(full.ids[start:], full.weights[start:])
    del full.ids[start:], full.weights[start:]
    return rest
