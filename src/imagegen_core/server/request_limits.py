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

    def check(self, request: ResolvedRequest) -> None:
        """Refuse too many steps or pixels, also those of a second stage.

        Raises:
            InvalidRequestError: The request exceeds `Settings.max_steps` or `Settings.max_pixels`.
        """
        self._check_stage(request, "num_inference_steps", "size")
        if (second := request.second_stage) is not None:
            steps = "num_inference_steps" if request.hires.steps is None else "hires.steps"
            self._check_stage(second, steps, "hires.scale" if request.hires.size is None else "hires.size")

    def _check_stage(self, request: ResolvedRequest, steps: str, size: str) -> None:
        """Refuse too many steps or pixels of one stage, by the names of their fields."""
        most_steps, most_pixels = self._settings.max_steps, self._settings.max_pixels
        if request.steps > most_steps:
            raise InvalidRequestError(
                f"Invalid {steps} {request.steps}: this server takes 1 to {most_steps}",
                steps,
            )
        if request.size.width * request.size.height > most_pixels:
            given = f"{size}, which gives {request.size}" if size == "hires.scale" else f"{size} {request.size}"
            raise InvalidRequestError(
                f"Invalid {given}: this server draws up to {most_pixels} pixels, such as {_square(most_pixels)}", size
            )


def _square(pixels: int) -> str:
    side = int(pixels**0.5) // 8 * 8
    return f"{side}x{side}"
