"""Parse the options of input pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from imagegen_core.errors import InvalidRequestError

if TYPE_CHECKING:
    from imagegen_core.request import HiresOptions, Variation
    from imagegen_core.request.picture_options import Options

Given = TypeVar("Given", bound="Options")


def parse_options(kind: type[Given], name: str, text: str | None) -> Given | None:
    """Parse ``NAME=VALUE,NAME=VALUE``; None stays None.

    Raises:
        InvalidRequestError: `text` has another form, an unknown name or a value of another type.
    """
    from pydantic import ValidationError

    if text is None:
        return None
    pairs = [pair.partition("=") for pair in text.split(",")]
    values = {key.strip().replace("-", "_"): value.strip() for key, _, value in pairs}
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
    """Parse a factor, a size or ``NAME=VALUE,NAME=VALUE``; None stays None.

    Raises:
        InvalidRequestError: `text` has another form.
    """
    from imagegen_core.request import HiresOptions

    if text is None or "=" in text:
        return parse_options(HiresOptions, "hires", text)
    return HiresOptions.parse(text)
