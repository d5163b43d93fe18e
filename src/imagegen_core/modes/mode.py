"""A mode with its table read: settings to load a model, and defaults for requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from imagegen_core.errors import InvalidRequestError, SettingsError
from imagegen_core.request import GenerateRequest
from imagegen_core.settings import ModeSettings, PredictionName, Settings
from imagegen_core.styles import LoraUse
from imagegen_core.worker import SupportsLoras, Worker

DEFAULT_MODE = "default"
"""The only mode if none is configured."""

Request = TypeVar("Request", bound=GenerateRequest)


class ModelKey(NamedTuple):
    """The identity of a model: modes with equal keys share one model."""

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
        name: Its name in requests.
        settings: The settings to load its model.
        table: Its table in the configuration.
        loras: The LoRAs that are always on.
    """

    name: str
    settings: Settings
    table: ModeSettings
    loras: tuple[LoraUse, ...] = ()

    @property
    def key(self) -> ModelKey:
        """The key of its model."""
        settings = self.settings
        return ModelKey(settings.backend, settings.model, str(settings.model_root or ""), settings.prediction)

    def complete(self, request: Request) -> Request:
        """Add the mode's LoRAs to a request, and the mode's defaults for missing fields."""
        defaults: Mapping[str, Any] = {
            "size": self.table.default_size if request.image is None else None,  # an image has its own size
            "num_inference_steps": self.table.default_steps,
            "guidance_scale": self.table.default_guidance,
            "scheduler": self.table.scheduler,
            "refiner": self.table.refiner,
            "schedule": None if request.scheduler else self.table.schedule,  # it belongs to the mode's sampler
        }
        left_out = {
            field: value
            for field, value in defaults.items()
            if value is not None and (field not in request.model_fields_set or getattr(request, field) is None)
        }
        refiner = left_out.get("refiner", request.refiner)
        if refiner and request.switch_at is None and self.table.switch_at is not None:
            left_out["switch_at"] = self.table.switch_at
        return request.model_copy(update=left_out).with_loras(self.loras)

    def check_refines(self) -> None:
        """Check that the mode can be a refiner of others.

        Raises:
            InvalidRequestError: It has LoRAs.
        """
        if self.loras:
            raise InvalidRequestError(
                f"Invalid refiner {self.name!r}: this mode has LoRAs, and a refiner draws without; name a mode without",
                "refiner",
            )

    def check_worker(self, worker: Worker) -> None:
        """Check that a worker can draw with the mode's LoRAs.

        Raises:
            SettingsError: The mode has LoRAs, and the worker does not support LoRAs.
        """
        if self.loras and not isinstance(worker, SupportsLoras):
            raise SettingsError(
                f"Mode {self.name} has LoRAs, but {type(worker).__name__} does not support LoRAs: remove them from the "
                "mode"
            )


@dataclass(frozen=True)
class ModeSet:
    """All modes.

    Attributes:
        modes: The modes by name; at least one.
        default: The name of the mode for requests without one.
        configured: Whether the configuration names them; else one mode stands for the whole configuration.
    """

    modes: Mapping[str, Mode]
    default: str
    configured: bool = True

    def find(self, name: str | None) -> Mode:
        """Return the mode of that name; None is the default.

        Raises:
            InvalidRequestError: There is none of that name; the message lists the available ones.
        """
        name = self.default if name is None else name
        if name not in self.modes:
            raise InvalidRequestError(f"Unknown mode {name[:64]!r}: expected {' or '.join(self.modes)}", "mode")
        return self.modes[name]

    def names_by_key(self) -> dict[ModelKey, list[str]]:
        """Return the names of the modes that share each model."""
        names: dict[ModelKey, list[str]] = {}
        for mode in self.modes.values():
            names.setdefault(mode.key, []).append(mode.name)
        return names
