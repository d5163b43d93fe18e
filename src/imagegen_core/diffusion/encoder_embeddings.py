"""Find the embeddings of one text encoder in prompts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

_SYNTAX = re.compile(r"[()\[\]\\]")


class EncoderEmbeddings:
    """Finds embeddings in a prompt by their names' token ids, as A1111 does, and odd names by their letters.

    A1111 misses the name ``bad(hand)`` if its brackets are not escaped, or if a comma follows: ``),`` is another token.

    Attributes:
        names: Finds, with its single group, the names that token ids would miss; None if there are none.
    """

    def __init__(self, tokenizer: Any, vectors: Mapping[str, Tensor], others: EncoderEmbeddings | None = None) -> None:
        """Take the embeddings of a text encoder.

        Args:
            tokenizer: The encoder's tokenizer.
            vectors: Vectors [count, width] by the embedding's name; of names with the same tokens, the first counts.
            others: Further embeddings, which count after these.
        """
        self._tokenizer = tokenizer
        self._by_name: dict[str, Tensor] = {}
        self._by_first: dict[int, list[tuple[list[int], Tensor]]] = {}
        for name, tensor in vectors.items():
            for spelled in {name, _escaped(name)} if _is_odd(name) else ():
                self._by_name.setdefault(spelled.casefold(), tensor)
        names = list(vectors)
        tokenized = tokenizer(names, add_special_tokens=False, verbose=False).input_ids if names else ()
        for ids, tensor in zip(tokenized, vectors.values(), strict=True):
            self._by_first.setdefault(ids[0], []).append((ids, tensor))
        if others is not None:
            self._by_name = others._by_name | self._by_name  # noqa: SLF001 - the same class
            for first, candidates in others._by_first.items():  # noqa: SLF001
                self._by_first.setdefault(first, []).extend(candidates)
        for candidates in self._by_first.values():
            candidates.sort(key=lambda candidate: len(candidate[0]), reverse=True)
        self.names = _pattern(self._by_name) if self._by_name else None

    def named(self, name: str) -> Tensor | None:
        """Return the vectors [count, width] of a name from `names`; None if Unicode has no single lower case for it."""
        return self._by_name.get(name.casefold())

    def find(self, ids: list[int], position: int) -> tuple[int, Tensor] | None:
        """Find the embedding with the longest name at `position`, if a word begins there.

        Args:
            ids: The token ids of a piece of a prompt.
            position: An index into `ids`.

        Returns:
            The number of tokens in the name, and the vectors [count, width]; None if there is no embedding.
        """
        for name, vectors in self._by_first.get(ids[position], ()):
            if ids[position : position + len(name)] == name and self._begins_word(ids, position):
                return len(name), vectors
        return None

    def _begins_word(self, ids: list[int], position: int) -> bool:
        if position == 0:
            return True
        before = ids[position - 1]
        is_unknown = before == self._tokenizer.unk_token_id
        return is_unknown or str(self._tokenizer.convert_ids_to_tokens(before)).endswith("</w>")


def _is_odd(name: str) -> bool:
    """Return whether a name holds weight syntax, or has an edge that may become one token with its neighbour."""
    return bool(_SYNTAX.search(name)) or not (name[0].isalnum() and name[-1].isalnum())


def _escaped(name: str) -> str:
    return _SYNTAX.sub(r"\\\g<0>", name)


def _pattern(names: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern for the names as whole words, the longest first."""
    spelled = []
    for name in sorted(names, key=len, reverse=True):
        before = r"(?<!\w)" if re.match(r"\w", name) else ""
        after = r"(?!\w)" if re.search(r"\w\Z", name) else ""
        spelled.append(f"{before}{re.escape(name)}{after}")
    return re.compile(f"({'|'.join(spelled)})", re.IGNORECASE)
