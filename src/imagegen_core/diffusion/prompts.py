"""Parse prompts: weights in brackets, names of embeddings, and any number of chunks.

The syntax and its meaning are A1111's (stable-diffusion-webui, ``modules/prompt_parser.py`` and
``modules/sd_hijack_clip.py``). ``(word)`` multiplies the weight by 1.1, ``[word]`` divides it by 1.1, and
``(word:1.3)`` multiplies it by 1.3. A backslash makes a bracket literal. ``BREAK`` starts a new chunk, also within
brackets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from imagegen_core.diffusion.brackets import WEIGHT, weigh

if TYPE_CHECKING:
    from torch import Tensor

    from imagegen_core.diffusion.encoder_embeddings import EncoderEmbeddings

_PIECE = re.compile(rf"[()\[\]]|{WEIGHT}|(?:[^\\()\[\]:]+|\\[()\[\]\\]?|:(?!{WEIGHT[1:]}))+")
_ESCAPE = re.compile(r"\\([()\[\]\\]?)")  # before any other character, the backslash disappears
_BREAK = re.compile(r"\bBREAK\b")
_COMMA_REACH = 20  # A1111's comma_padding_backtrack
_PLACEHOLDER = 0  # stands for an embedding's vectors; it must not be the end token, because CLIP pools there


class Fragment(NamedTuple):
    """A piece of a prompt with one weight.

    Attributes:
        text: The piece; None starts a new chunk.
        weight: The factor for its hidden states.
        is_name: Whether the piece is an embedding's name.
    """

    text: str | None
    weight: float = 1.0
    is_name: bool = False


@dataclass
class Chunk:
    """The part of a prompt that a text encoder reads at once.

    Attributes:
        ids: Token ids, without start, end and padding.
        weights: The tokens' weights.
        embeddings: Vectors [count, width] for placeholder tokens, by the index of the first placeholder in `ids`.
    """

    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    embeddings: dict[int, Tensor] = field(default_factory=dict)

    @property
    def is_weighted(self) -> bool:
        """Whether any token has a weight other than 1."""
        return any(weight != 1.0 for weight in self.weights)


def parse(prompt: str, names: re.Pattern[str] | None = None) -> list[Fragment]:
    """Split a prompt into weighted fragments; any text is valid, and an unclosed bracket reaches to the end.

    Args:
        prompt: The prompt.
        names: Finds, with its single group, names of embeddings; these are read literally, with their brackets.

    >>> parse("a (red:1.5) [car]")
    [Fragment('a '), Fragment('red', 1.5), Fragment(' '), Fragment('car', 0.909...)]
    """
    pieces: list[str] = []
    named: set[int] = set()
    for index, segment in enumerate(names.split(prompt) if names else [prompt]):
        if index % 2:  # the pattern's group
            named.add(len(pieces))
            pieces.append(segment)
        else:
            pieces += _PIECE.findall(segment)
    fragments = _Fragments()
    for index, weight in enumerate(weigh(pieces, named)):
        if weight is None:  # a bracket
            continue
        piece = pieces[index]
        if index in named:
            fragments.append(Fragment(piece, weight, is_name=True))
        elif "BREAK" in piece or "\\" in piece:
            first, *others = _BREAK.split(piece)
            fragments.extend(_ESCAPE.sub(r"\1", first), weight)
            for text in others:
                fragments.append(Fragment(None))
                fragments.extend(_ESCAPE.sub(r"\1", text), weight)
        else:
            fragments.extend(piece, weight)
    return fragments.end()


class _Fragments:
    """Joins neighbours with the same weight, so that words are tokenized whole."""

    def __init__(self) -> None:
        self._ended: list[Fragment] = []
        self._texts: list[str] = []
        self._weight = 1.0

    def extend(self, text: str, weight: float) -> None:
        """Add text, to the last fragment if that has the same weight."""
        if weight != self._weight:
            self.end()
            self._weight = weight
        self._texts.append(text)

    def append(self, fragment: Fragment) -> None:
        """Add a separate fragment."""
        self.end().append(fragment)

    def end(self) -> list[Fragment]:
        """End the last fragment, and return all of them."""
        if text := "".join(self._texts):
            self._ended.append(Fragment(text, self._weight))
        self._texts.clear()
        return self._ended


def chunks(tokenizer: Any, fragments: Sequence[Fragment], embeddings: EncoderEmbeddings | None = None) -> list[Chunk]:
    """Split fragments into at least one chunk of tokens; each leaves room for the start and end tokens.

    Args:
        tokenizer: A CLIP tokenizer.
        fragments: The result of `parse`.
        embeddings: The embeddings that the fragments may name; None for no embeddings.
    """
    made = _Chunks(tokenizer.model_max_length - 2, tokenizer.convert_tokens_to_ids(",</w>"))
    texts = [fragment.text for fragment in fragments if fragment.text is not None]
    tokenized = iter(tokenizer(texts, add_special_tokens=False, verbose=False).input_ids if texts else ())
    for fragment in fragments:
        if fragment.text is None:
            made.end()
            continue
        ids = next(tokenized)
        named = embeddings.named(fragment.text) if fragment.is_name and embeddings is not None else None
        if named is not None:
            made.add_embedding(named, fragment.weight)
            continue
        position = 0
        while position < len(ids):
            match = embeddings.find(ids, position) if embeddings is not None else None
            if match is None:
                made.add_token(ids[position], fragment.weight)
                position += 1
            else:
                length, vectors = match
                made.add_embedding(vectors, fragment.weight)
                position += length
    return made.finished()


class _Chunks:
    """Fills chunks as A1111's ``tokenize_line`` does."""

    def __init__(self, length: int, comma: int) -> None:
        self._length = length
        self._comma = comma
        self._ended: list[Chunk] = []
        self._chunk = Chunk()
        self._last_comma: int | None = None  # its index in the chunk

    def add_token(self, token: int, weight: float) -> None:
        """Add a token, to a new chunk if the last chunk is full."""
        if token == self._comma:
            self._last_comma = len(self._chunk.ids)
        elif self._is_full:
            self._carry_over()
        if self._is_full:
            self.end()
        self._chunk.ids.append(token)
        self._chunk.weights.append(weight)

    def add_embedding(self, vectors: Tensor, weight: float) -> None:
        """Add an embedding's vectors [count, width], to a new chunk if they do not all fit into the last chunk."""
        if self._is_full:
            self._carry_over()
        if len(self._chunk.ids) + len(vectors) > self._length:
            self.end()
        self._chunk.embeddings[len(self._chunk.ids)] = vectors
        self._chunk.ids += [_PLACEHOLDER] * len(vectors)
        self._chunk.weights += [weight] * len(vectors)

    def end(self) -> None:
        """End the chunk and begin another one."""
        self._ended.append(self._chunk)
        self._chunk = Chunk()
        self._last_comma = None

    def finished(self) -> list[Chunk]:
        """Return all chunks; an empty last chunk counts only if it is the only chunk."""
        return [*self._ended, self._chunk] if self._chunk.ids or not self._ended else self._ended

    @property
    def _is_full(self) -> bool:
        return len(self._chunk.ids) == self._length

    def _carry_over(self) -> None:
        """Move the text after a near comma into a new chunk."""
        if self._last_comma is None or self._length - self._last_comma > _COMMA_REACH:
            return
        full, start = self._chunk, self._last_comma + 1
        self.end()
        self._chunk = Chunk(full.ids[start:], full.weights[start:])
        self._chunk.embeddings = {at - start: vectors for at, vectors in full.embeddings.items() if at >= start}
        full.embeddings = {at: vectors for at, vectors in full.embeddings.items() if at < start}
        del full.ids[start:], full.weights[start:]
