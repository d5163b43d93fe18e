"""The style of a request."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from imagegen_core.errors import InvalidRequestError

_LAST_LEVEL = 1000  # above the last level of any style; it selects the last level


class StyleLoraRequest(BaseModel):
    """The style of a picture and its level.

    Attributes:
        style: The style's id, or None for no style.
        level: 0 is off; 1..N selects one of the style's strengths, and a level above N means N.
    """

    model_config = ConfigDict(extra="forbid")

    style: str | None = None
    level: int = 0

    @classmethod
    def parse(cls, text: str) -> StyleLoraRequest:
        """Parse ``NAME:LEVEL``, or ``NAME`` for the style's last level.

        Raises:
            InvalidRequestError: `text` has neither form.
        """
        name, colon, level = text.rpartition(":")
        if not colon:
            return cls(style=text, level=_LAST_LEVEL)
        if not name or not level.isdecimal():
            raise InvalidRequestError(f"Invalid style {text!r}: expected NAME or NAME:LEVEL, with a level from 0")
        return cls(style=name, level=int(level))
