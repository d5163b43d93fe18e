"""Variations of a picture: noise between that of two seeds, or of another size."""

from __future__ import annotations

from typing import Self

from imagegen_core.errors import InvalidRequestError
from imagegen_core.request.checks import MAX_SEED, number, shown, whole_number
from imagegen_core.request.picture_options import Options
from imagegen_core.request.size import Size


class Variation(Options):
    """Changes of a picture's first noise; A1111 calls them extra seeds.

    Attributes:
        seed: The second seed, 0 to 2**63 - 1.
        strength: The way to the second seed's noise, from 0 to 1, by spherical interpolation.
        resize_from: ``WIDTHxHEIGHT``: the noise's middle is that of a picture of this size, so that the content stays
            alike at another size. None is off.
    """

    seed: int = 0
    strength: float = 0.0
    resize_from: str | None = None

    @classmethod
    def of(cls, value: object) -> Self:
        """Validate a request's variation.

        Raises:
            InvalidRequestError: A value is out of range.
        """
        given = cls.read(value, "variation")
        size = given.resize_from
        return cls(
            seed=whole_number("variation.seed", given.seed, high=MAX_SEED),
            strength=number("variation.strength", given.strength, 1.0) or 0.0,
            resize_from=None if size is None else str(Size.parse(size, "variation.resize_from")),
        )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``SEED:STRENGTH``.

        Raises:
            InvalidRequestError: `text` has another form.
        """
        seed, _, strength = text.partition(":")
        try:
            return cls(seed=int(seed), strength=float(strength))
        except ValueError:
            raise InvalidRequestError(
                f"Invalid variation {shown(text)}: expected SEED:STRENGTH, such as 7:0.2", "variation"
            ) from None

    def __bool__(self) -> bool:
        return self.strength > 0 or self.resize_from is not None
