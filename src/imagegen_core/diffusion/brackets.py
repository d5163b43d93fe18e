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
    weights: list[float | None] = [None] * len(pieces)
    around = _OpenBrackets(pieces)
    rounds, squares, unclosed = around.rounds, around.squares, around.unclosed
    weight: float | None = 1.0
    for index, closing in enumerate(_closings(pieces, names)):
        if closing == _TEXT:
            if weight is None:
                weight = around.weight()
            weights[index] = weight
            continue
        weight = None
        if closing == _UNCLOSED:
            unclosed.append(pieces[index])
        elif closing != _CLOSES:
            (rounds if pieces[index] == "(" else squares).append(closing)
        elif pieces[index] == "]":
            squares.pop()
        else:
            rounds.pop()
            around.unchanged = min(around.unchanged, len(rounds))
    return weights


def _closings(pieces: Sequence[str], names: Collection[int]) -> list[int]:
    """For each opening bracket where it closes, or `_UNCLOSED`; `_CLOSES` for what closes; `_TEXT` for the rest."""
    closings = [_TEXT] * len(pieces)
    rounds: list[int] = []
    squares: list[int] = []
    for index, piece in enumerate(pieces):
        if names and index in names:
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
    """The brackets around the piece that is being read.

    Attributes:
        rounds: For each round bracket, outermost first, the index of the piece that closes it.
        squares: For each square bracket, the same.
        unclosed: The brackets that nothing closes.
        unchanged: How many of `rounds` are those of the last call of `weight`.
    """

    def __init__(self, pieces: Sequence[str]) -> None:
        self.rounds: list[int] = []
        self.squares: list[int] = []
        self.unclosed: list[str] = []
        self.unchanged = 0
        self._pieces = pieces
        self._products = [1.0]  # of the factors of `rounds`, outermost first
        self._unclosed_products = [1.0]

    def weight(self) -> float:
        """The product of all factors, in the order of the closings: neighbours of equal weight become one text."""
        if len(self.rounds) + len(self.squares) + len(self.unclosed) > _EXACT_DEPTH:
            return self._deep_weight()
        weight = 1.0
        for closing in sorted(self.rounds + self.squares):
            weight *= self._factor(self._pieces[closing])
        for bracket in sorted(self.unclosed):  # the round ones first
            weight *= self._factor(bracket)
        return weight

    def _deep_weight(self) -> float:
        """The product of all factors, of which those that were multiplied before are not multiplied again."""
        del self._products[self.unchanged + 1 :]
        for closing in self.rounds[self.unchanged :]:
            self._products.append(self._products[-1] * self._factor(self._pieces[closing]))
        self.unchanged = len(self.rounds)
        for bracket in self.unclosed[len(self._unclosed_products) - 1 :]:
            self._unclosed_products.append(self._unclosed_products[-1] * self._factor(bracket))
        return self._products[-1] * (1 / _STEP) ** len(self.squares) * self._unclosed_products[-1]

    @staticmethod
    def _factor(piece: str) -> float:
        """The factor of a bracket without its other half, or of the piece that closes a pair."""
        if len(piece) > 1:
            return float(piece[1:-1])
        return _STEP if piece in "()" else 1 / _STEP
