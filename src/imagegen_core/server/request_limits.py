"""Limits on a single request."""

from __future__ import annotations

from imagegen_core.errors import InvalidRequestError
from imagegen_core.request import ResolvedRequest
from imagegen_core.settings import Settings


class RequestLimits:
    """The server's limits on prompts, steps and sizes."""

    def __init__(self, settings: Settings) -> None:
        """Take the limits from the settings."""
        self._settings = settings

    def check_length(self, prompt: str, field: str) -> None:
        """Refuse a long prompt before parsing.

        Raises:
            InvalidRequestError: The prompt has more than `Settings.max_prompt_chars` characters.
        """
        limit = self._settings.max_prompt_chars
        if len(prompt) > limit:
            raise InvalidRequestError(
                f"Invalid {field} of {len(prompt)} characters: this server takes up to {limit}, so shorten it", field
            )

    def check_picture(self, field: str, width: int, height: int) -> None:
        """Refuse a large input picture before its pixels are unpacked.

        Raises:
            InvalidRequestError: It has more than `Settings.max_input_pixels` pixels.
        """
        limit = self._settings.max_input_pixels
        if width * height > limit:
            raise InvalidRequestError(
                f"Invalid {field} of {width}x{height} pixels: this server reads pictures of up to {limit} pixels, so "
                "scale it down",
                field,
            )

    def check(self, request: ResolvedRequest) -> None:
        """Refuse too many steps or pixels.

        Raises:
            InvalidRequestError: The request exceeds `Settings.max_steps` or `Settings.max_pixels`.
        """
        most_steps, most_pixels = self._settings.max_steps, self._settings.max_pixels
        if request.steps > most_steps:
            raise InvalidRequestError(
                f"Invalid num_inference_steps {request.steps}: this server takes 1 to {most_steps}",
                "num_inference_steps",
            )
        if request.size.width * request.size.height > most_pixels:
            raise InvalidRequestError(
                f"Invalid size {request.size}: this server draws up to {most_pixels} pixels, such as "
                f"{_square(most_pixels)}",
                "size",
            )


def _square(pixels: int) -> str:
    side = int(pixels**0.5) // 8 * 8
    return f"{side}x{side}"
