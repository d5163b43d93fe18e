"""A1111's options, of which few mean something here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from imagegen_core.errors import InvalidRequestError
from imagegen_core.modes import Mode

_DEEPEST_CLIP = 12


@dataclass(frozen=True, slots=True)
class Options:
    """Of A1111's options, those that mean something here.

    Attributes:
        clip_stop_at_last_layers: "Clip skip"; 1 skips nothing.
        mode: The mode that draws; None is the server's default.
    """

    clip_stop_at_last_layers: int = 1
    mode: str | None = None

    def with_overrides(self, given: dict[str, Any], checkpoints: Mapping[str, Mode]) -> Options:
        """These options with those of a client, whose checkpoints are modes.

        Raises:
            InvalidRequestError: There is no such option here, or it cannot be set so.
        """
        options = self
        for name, value in given.items():
            if name == "sd_model_checkpoint":
                if value not in checkpoints:
                    raise InvalidRequestError(
                        f"This server draws with {' or '.join(checkpoints)} alone: leave {name} out", name
                    )
                options = replace(options, mode=checkpoints[value].name)
            elif name == "CLIP_stop_at_last_layers":
                if value not in range(1, _DEEPEST_CLIP + 1):
                    raise InvalidRequestError(
                        f"Invalid {name} {str(value)[:64]!r}: expected 1 to {_DEEPEST_CLIP}", name
                    )
                options = replace(options, clip_stop_at_last_layers=int(value))
            elif name not in ("samples_format", "sd_vae") or value not in ("png", "Automatic"):
                raise InvalidRequestError(f"There is no option {name[:64]!r} to set here: leave it out", "options")
        return options
