"""What a mode is once its table is read: settings to load a model with, and what its requests leave out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from imagegen_core.errors import InvalidRequestError
from imagegen_core.request import GenerateRequest
from imagegen_core.settings import ModeSettings, PredictionName, Settings
from imagegen_core.styles import LoraUse

DEFAULT_MODE = "default"
"""The only mode where none is configured."""

Request = TypeVar("Request", bound=GenerateRequest)


class ModelKey(NamedTuple):
    """What tells models apart: modes of equal keys share one model."""

    backend: str | None
    model: str | None
    root: str
    prediction: PredictionName | None = None

    def __str__(self) -> str:
        return self.model or "the configured model"


@dataclass(frozen=True)
class Mode:
    """One of a server's modes.

    Attributes:
        name: What requests call it.
        settings: How its model is loaded.
        table: Its table in the configuration.
        loras: The LoRAs that are always on.
    """

    name: str
    settings: Settings
    table: ModeSettings
    loras: tuple[LoraUse, ...] = ()

    @property
    def key(self) -> ModelKey:
        """Which model it draws with."""
        settings = self.settings
        return ModelKey(settings.backend, settings.model, str(settings.model_root or ""), settings.prediction)

    def complete(self, request: Request) -> Request:
        """The request with the mode's LoRAs, and with its defaults where it leaves a field out."""
        defaults: Mapping[str, Any] = {
            "size": self.table.default_size,
            "num_inference_steps": self.table.default_steps,
            "guidance_scale": self.table.default_guidance,
            "scheduler": self.table.scheduler,
            "schedule": None if request.scheduler else self.table.schedule,  # which goes with the mode's sampler
        }
        left_out = {
            field: value
            for field, value in defaults.items()
            if value is not None and (field not in request.model_fields_set or getattr(request, field) is None)
        }
        return request.model_copy(update=left_out).with_loras(self.loras)


@dataclass(frozen=True)
class ModeSet:
    """The modes there are.

    Attributes:
        modes: The modes by name; at least one.
        default: The name of the one that draws where a request names none.
        configured: Whether the configuration names them; else there is one that stands for the whole configuration.
    """

    modes: Mapping[str, Mode]
    default: str
    configured: bool = True

    def find(self, name: str | None) -> Mode:
        """The mode of that name; None is the default.

        Raises:
            InvalidRequestError: There is none of that name; the message lists those there are.
        """
        name = self.default if name is None else name
        if name not in self.modes:
            raise InvalidRequestError(f"Unknown mode {name[:64]!r}: expected {' or '.join(self.modes)}", "mode")
        return self.modes[name]

    def names_by_key(self) -> dict[ModelKey, list[str]]:
        """The names of the modes that share each model."""
        names: dict[ModelKey, list[str]] = {}
        for mode in self.modes.values():
            names.setdefault(mode.key, []).append(mode.name)
        return names
