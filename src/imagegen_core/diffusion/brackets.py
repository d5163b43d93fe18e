"""The weights that a prompt's brackets give to the text within them, as A1111's ``parse_prompt_attention`` does."""

from __future__ import annotations

from collections.abc import Collection, Sequence

WEIGHT = r":\s*[+-]?(?:\d+(?:\.\d*)?|\.\d+)\s*\)"
"""A regular expression of a weight with the bracket that it closes, such as ``:1.3)``."""
_STEP = 1.1
_EXACT_DEPTH = 16  # deeper brackets multiply outermost first, as A1111's order would take quadratic time
_TEXT, _CLOSES, _UNCLOSED = 0, -1, -2


def weigh(pieces: Sequence[str], names: Collection[int]) -> list[float | None]:
    """Give each piece that is text its weight, and each other piece None, in time linear in the number of pieces.

    A closing bracket without an opening one is text. An opening one without a closing one reaches to the end.

    Args:
        pieces: Single brackets, weights with their closing brackets (see `WEIGHT`), and text.
        names: The indexes of pieces that are text whatever they look like.
    """
    closings = _closings(pieces, names)
    open_brackets = _OpenBrackets(pieces)
    weights: list[float | None] = [None] * len(pieces)
    weight: float | None = 1.0
    for index, closing in enumerate(closings):
        if closing != _TEXT:
            open_brackets.change(pieces[index], closing)
            weight = None
            continue
        if weight is None:
            weight = open_brackets.weight()
        weights[index] = weight
    return weights


def _closings(pieces: Sequence[str], names: Collection[int]) -> list[int]:
    """For each opening bracket where it closes, or `_UNCLOSED`; `_CLOSES` for what closes; `_TEXT` for the rest."""
    closings = [_TEXT] * len(pieces)
    rounds: list[int] = []
    squares: list[int] = []
    for index, piece in enumerate(pieces):
        if index in names:
            continue
        if piece == "(":
            rounds.append(index)
        elif piece == "[":
            squares.append(index)
        elif piece == "]":
            if squares:
                closings[squares.pop()] = index
                closings[index] = _CLOSES
        elif rounds and piece[-1] == ")" and piece[-2:-1] != "\\":
            closings[rounds.pop()] = index
            closings[index] = _CLOSES
    for index in rounds + squares:
        closings[index] = _UNCLOSED
    return closings


class _OpenBrackets:
    """The brackets around the piece that is being read."""

    def __init__(self, pieces: Sequence[str]) -> None:
        self._pieces = pieces
        self._rounds: list[int] = []  # the indexes of the pieces that close them
        self._squares: list[int] = []
        self._products = [1.0]  # of the factors in `_rounds`, outermost first, as far as they were asked for
        self._unclosed: list[float] = []  # the factors of those that nothing closes
        self._unclosed_product = 1.0

    def change(self, piece: str, closing: int) -> None:
        """Open the bracket that `piece` is, or close the innermost of its kind."""
        if closing == _UNCLOSED:
            factor = _STEP if piece == "(" else 1 / _STEP
            self._unclosed.append(factor)
            self._unclosed_product *= factor
        elif piece == "(":
            self._rounds.append(closing)
        elif piece == "[":
            self._squares.append(closing)
        elif piece == "]":
            self._squares.pop()
        else:
            self._rounds.pop()
            del self._products[len(self._rounds) + 1 :]

    def weight(self) -> float:
        """The product of all factors, in the order of the closings: neighbours of equal weight become one text."""
        depth = len(self._rounds) + len(self._squares) + len(self._unclosed)
        if depth > _EXACT_DEPTH:
            for closing in self._rounds[len(self._products) - 1 :]:
                self._products.append(self._products[-1] * self._factor(closing))
            return self._products[-1] * (1 / _STEP) ** len(self._squares) * self._unclosed_product
        weight = 1.0
        if depth:
            for closing in sorted(self._rounds + self._squares):
                weight *= self._factor(closing)
            for factor in sorted(self._unclosed, reverse=True):  # the round ones first
                weight *= factor
        return weight

    def _factor(self, closing: int) -> float:
        piece = self._pieces[closing]
        if len(piece) > 1:
            return float(piece[1:-1])
        return _STEP if piece == ")" else 1 / _STEP
