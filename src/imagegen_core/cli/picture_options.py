"""Parse the options of input pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from imagegen_core.errors import InvalidRequestError

if TYPE_CHECKING:
    from imagegen_core.request import HiresOptions, Variation
    from imagegen_core.request.picture_options import Options

Given = TypeVar("Given", bound="Options")

_CORNERS = {"crop", "negative_crop"}  # LEFT:TOP, because a comma separates options


def parse_options(kind: type[Given], name: str, text: str | None) -> Given | None:
    """Parse ``NAME=VALUE,NAME=VALUE``; None stays None.

    Raises:
        InvalidRequestError: `text` has another form, an unknown name or a value of another type.
    """
    from pydantic import ValidationError

    if text is None:
        return None
    pairs = [pair.partition("=") for pair in text.split(",")]
    values: dict[str, Any] = {key.strip().replace("-", "_"): value.strip() for key, _, value in pairs}
    for key in _CORNERS & values.keys():
        values[key] = tuple(values[key].split(":"))
    try:
        return kind(**values)
    except ValidationError as error:
        place = error.errors(include_url=False)[0]["loc"][0]
        raise InvalidRequestError(
            f"Invalid --{name} {text!r}: {place} is no option with this value; expected NAME=VALUE, separated by "
            f"commas, of {', '.join(kind.model_fields)}",
            name,
        ) from error


def parse_variation(text: str | None, resize_from: str | None) -> Variation | None:
    """Parse ``SEED:STRENGTH``, and add the size; None for neither.

    Raises:
        InvalidRequestError: `text` has another form.
    """
    from imagegen_core.request import Variation

    if text is None and resize_from is None:
        return None
    variation = Variation() if text is None else Variation.parse(text)
    return variation.model_copy(update={"resize_from": resize_from})


def parse_hires(text: str | None) -> HiresOptions | None:
    """Parse a factor or a size, ``NAME=VALUE,NAME=VALUE``, or both; None stays None.

    Raises:
        InvalidRequestError: `text` has another form.
    """
    from imagegen_core.request import HiresOptions

    if text is None:
        return None
    first, _, others = text.partition(",")
    if "=" in first:
        return parse_options(HiresOptions, "hires", text)
    hires = HiresOptions.parse(first)
    more = parse_options(HiresOptions, "hires", others or None)
    return hires if more is None else hires.model_copy(update=more.model_dump(exclude_unset=True))


def upscaler_file(hires: HiresOptions | None) -> tuple[HiresOptions | None, str | None]:
    """Split an upscaler's path from the options: a request has only its name, and the settings have the path.

    Returns:
        The options with the name, and the path; None if the upscaler is no path of a network's file.
    """
    from imagegen_core.images.upscaler import WEIGHTS_SUFFIXES

    path = Path(hires.upscaler) if hires is not None and hires.upscaler is not None else None
    if hires is None or path is None or path.suffix.lower() not in WEIGHTS_SUFFIXES:
        return hires, None
    return hires.model_copy(update={"upscaler": path.stem}), str(path)
