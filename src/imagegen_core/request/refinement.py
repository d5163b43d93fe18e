"""The check of a refiner: another model draws the last steps of a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from imagegen_core.errors import InvalidRequestError
from imagegen_core.request.checks import real, shown, text

_SWITCH_AT = 0.8  # of the paper's pipeline: https://arxiv.org/abs/2307.01952, section 2.5


@dataclass(frozen=True, slots=True)
class Refinement:
    """The checked fields of a request about its refiner; both are None without a refiner.

    Attributes:
        refiner: The refiner's name.
        switch_at: The part of the noise levels before the refiner, between 0 and 1.
    """

    refiner: str | None = None
    switch_at: float | None = None

    @classmethod
    def of(cls, request: object) -> Self:
        """Validate a request's refiner.

        Raises:
            InvalidRequestError: A value is out of range, or `switch_at` stands without a refiner.
        """
        refiner, given = getattr(request, "refiner", None), getattr(request, "switch_at", None)
        refiner = None if refiner is None else text("refiner", refiner)
        if not refiner:
            if given is not None:
                raise InvalidRequestError("switch_at needs a refiner: name one, or leave switch_at out", "switch_at")
            return cls()
        switch_at = _SWITCH_AT if given is None else real(given)
        if not 0 < switch_at < 1:
            raise InvalidRequestError(
                f"Invalid switch_at {shown(given)}: expected a number between 0 and 1, such as 0.8", "switch_at"
            )
        return cls(refiner, switch_at)
