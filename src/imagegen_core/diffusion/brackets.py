"""Compute the weights of text in a prompt's brackets, as A1111's ``parse_prompt_attention`` does."""

from __future__ import annotations

from collections.abc import Collection, Sequence

WEIGHT = r":\s*[+-]?(?:\d+(?:\.\d*)?|\.\d+)\s*\)"
"""A regular expression for a weight with its closing bracket, such as ``:1.3)``."""
_STEP = 1.1
_EXACT_DEPTH = 16  # deeper brackets multiply from the outside in, because A1111's order would take quadratic time
_TEXT, _CLOSES, _UNCLOSED = 0, -1, -2


def weigh(pieces: Sequence[str], names: Collection[int]) -> list[float | None]:
    """Return a weight for each piece of text and None for each other piece, in linear time.

    A closing bracket without an opening bracket is text. An opening bracket without a closing bracket reaches to the
    end.

    Args:
        pieces: Single brackets, weights with their closing brackets (see `WEIGHT`), and text.
        names: The indexes of pieces to read as text, even if they look like brackets.
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
    """Return the index of the closing bracket for each opening bracket.

    The value is `_UNCLOSED` without a closing bracket, `_CLOSES` for a closing bracket, and `_TEXT` for other pieces.
    """
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
    """The brackets around the current piece.

    Attributes:
        rounds: For each round bracket, from the outside in, the index of its closing piece.
        squares: The same for each square bracket.
        unclosed: The brackets without a closing bracket.
        unchanged: How many of `rounds` are the same as at the last call of `weight`.
    """

    def __init__(self, pieces: Sequence[str]) -> None:
        self.rounds: list[int] = []
        self.squares: list[int] = []
        self.unclosed: list[str] = []
        self.unchanged = 0
        self._pieces = pieces
        self._products = [1.0]  # of the factors of `rounds`, from the outside in
        self._unclosed_products = [1.0]

    def weight(self) -> float:
        """Return the product of all factors, in the order of the closing brackets, as A1111 does.

        The order matters: neighbours with exactly equal weights become one text.
        """
        if len(self.rounds) + len(self.squares) + len(self.unclosed) > _EXACT_DEPTH:
            return self._deep_weight()
        weight = 1.0
        for closing in sorted(self.rounds + self.squares):
            weight *= self._factor(self._pieces[closing])
        for bracket in sorted(self.unclosed):  # the round brackets first
            weight *= self._factor(bracket)
        return weight

    def _deep_weight(self) -> float:
        """Return the product of all factors, and reuse the products of the last call."""
        del self._products[self.unchanged + 1 :]
        for closing in self.rounds[self.unchanged :]:
            self._products.append(self._products[-1] * self._factor(self._pieces[closing]))
        self.unchanged = len(self.rounds)
        for bracket in self.unclosed[len(self._unclosed_products) - 1 :]:
            self._unclosed_products.append(self._unclosed_products[-1] * self._factor(bracket))
        return self._products[-1] * (1 / _STEP) ** len(self.squares) * self._unclosed_products[-1]

    @staticmethod
    def _factor(piece: str) -> float:
        """Return the factor of an unclosed bracket, or of the closing piece of a pair."""
        if len(piece) > 1:
            return float(piece[1:-1])
        return _STEP if piece in "()" else 1 / _STEP
