"""Micro-conditioning: sizes and a crop as conditions of a picture: https://arxiv.org/abs/2307.01952, section 2.2."""

from __future__ import annotations

from typing import Any, Self

from imagegen_core.errors import InvalidRequestError
from imagegen_core.request.checks import number, shown, whole_number
from imagegen_core.request.picture_options import Options
from imagegen_core.request.size import Size, parse_sides

_LARGEST = 2**16
_HIGHEST_SCORE = 10.0


class MicroConditioning(Options):
    """Sizes and a crop as conditions of a picture, for networks that were trained with them.

    Attributes:
        original_size: ``WIDTHxHEIGHT`` of the imagined original; None is the picture's size.
        crop: Pixels that were cut off at the left and the top.
        target_size: ``WIDTHxHEIGHT`` of the imagined result; None is the picture's size.
        negative_original_size: The same for the negative prompt; None is `original_size`.
        negative_crop: The same for the negative prompt; None is `crop`.
        negative_target_size: The same for the negative prompt; None is `target_size`.
        aesthetic_score: The imagined score of the picture's looks, from 0 to 10. Only some refiners take scores.
        negative_aesthetic_score: The score for the negative prompt.
    """

    original_size: str | None = None
    crop: tuple[int, int] = (0, 0)
    target_size: str | None = None
    negative_original_size: str | None = None
    negative_crop: tuple[int, int] | None = None
    negative_target_size: str | None = None
    aesthetic_score: float = 6.0
    negative_aesthetic_score: float = 2.5

    @classmethod
    def of(cls, value: object) -> Self:
        """Validate a request's conditions.

        Raises:
            InvalidRequestError: A value is out of range.
        """
        given = cls.read(value, "micro_conditioning")
        sizes: dict[str, Any] = {
            name: _size(f"micro_conditioning.{name}", getattr(given, name))
            for name in ("original_size", "target_size", "negative_original_size", "negative_target_size")
        }
        negative = None if given.negative_crop is None else _crop("negative_crop", given.negative_crop)
        scores: dict[str, Any] = {
            name: _score(f"micro_conditioning.{name}", getattr(given, name))
            for name in ("aesthetic_score", "negative_aesthetic_score")
        }
        return cls(crop=_crop("crop", given.crop), negative_crop=negative, **sizes, **scores)

    def time_ids(self, size: Size, *, negative: bool = False) -> list[int]:
        """Return the six numbers for the network: original size, crop corner and target size, each height first."""
        picture = (size.width, size.height)
        original, target = (parse_sides(side) or picture for side in (self.original_size, self.target_size))
        crop = self.crop
        if negative:
            original = parse_sides(self.negative_original_size) or original
            target = parse_sides(self.negative_target_size) or target
            crop = self.crop if self.negative_crop is None else self.negative_crop
        return [*original[::-1], *crop[::-1], *target[::-1]]


def _size(name: str, value: object) -> str | None:
    if value is None:
        return None
    sides = parse_sides(value)
    if sides is None or not all(0 < side <= _LARGEST for side in sides):
        raise InvalidRequestError(
            f"Invalid {name} {shown(value)}: expected WIDTHxHEIGHT in pixels, such as 1024x1024, at most {_LARGEST} a "
            "side",
            name,
        )
    return f"{sides[0]}x{sides[1]}"


def _score(name: str, value: object) -> float:
    score = number(name, value, _HIGHEST_SCORE)
    if score is None:
        raise InvalidRequestError(f"Invalid {name} None: expected a number from 0 to {_HIGHEST_SCORE:g}", name)
    return score


def _crop(name: str, value: object) -> tuple[int, int]:
    name = f"micro_conditioning.{name}"
    if not isinstance(value, tuple | list) or len(value) != 2:  # noqa: PLR2004 - left and top
        raise InvalidRequestError(f"Invalid {name} {shown(value)}: expected two numbers, left and top", name)
    left, top = (whole_number(name, side, high=_LARGEST) for side in value)
    return left, top
