"""The tables of the configuration file, each a section with its own keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from imagegen_core.request import MAX_GUIDANCE, Size
from imagegen_core.settings.values import PredictionName
from imagegen_core.styles import MAX_STRENGTH

_MODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+:/-]{0,63}")  # used in headers and addresses


Strength = Annotated[float, Field(ge=-MAX_STRENGTH, le=MAX_STRENGTH)]
"""The factor of a LoRA."""


class StyleSettings(BaseModel):
    """A style in the configuration; see `imagegen_core.StyleDef`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lora_path: Path
    levels: tuple[Strength, ...] = (1.0,)
    title: str | None = None
    required_cross_attention_dim: int | None = None


class LoraSettings(BaseModel):
    """A LoRA of a mode, always on.

    Attributes:
        path: Its file; a relative path starts at `lora_root`, or without one at `model_root`.
        strength: The factor of its change.
        adapter_name: Its name in listings of the mode; by default ``lora_`` and the file's name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path
    strength: Strength = 1.0
    adapter_name: str | None = Field(default=None, min_length=1)


def _as_table(value: object) -> object:
    return {"path": value} if isinstance(value, str) else value


class ModeSettings(BaseModel):
    """A mode in the configuration: a checkpoint, its LoRAs, and its defaults.

    Attributes:
        model: The checkpoint, like `Settings.model`; None takes that value.
        backend: The backend; None chooses it by the checkpoint.
        loras: The LoRAs that are always on; a plain path means strength 1.
        default_size: The size if a request names none; None takes the server's, or the checkpoint's native size.
        default_steps: The denoising steps if a request names none; None takes the server's.
        default_guidance: The guidance scale if a request names none; None takes the server's.
        scheduler: The sampler if a request names none; None takes the configured one.
        schedule: The noise schedule if a request names none.
        refiner: The refiner if a request names none: another mode, or a checkpoint in the server's list.
        switch_at: The part of the noise levels before this refiner, if a request names none; None is 0.8.
        prediction: The prediction type, like `Settings.prediction`; None takes that value.
        parameters: Values of plugins' parameters if a request names none.
        description: A description for display.
        metadata: Notes of any kind, shown in listings and otherwise unused.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model: str | None = Field(default=None, min_length=1)
    backend: str | None = None
    loras: tuple[Annotated[LoraSettings, BeforeValidator(_as_table)], ...] = ()
    default_size: str | None = None
    default_steps: int | None = Field(default=None, ge=1)
    default_guidance: float | None = Field(default=None, ge=0, le=MAX_GUIDANCE)
    scheduler: str | None = None
    schedule: str | None = None
    refiner: str | None = Field(default=None, min_length=1)
    switch_at: float | None = Field(default=None, gt=0, lt=1)
    prediction: PredictionName | None = None
    parameters: Mapping[str, Any] = Field(default_factory=dict)
    description: str | None = None
    metadata: Mapping[str, Any] = Field(default_factory=dict)

    @field_validator("default_size")
    @classmethod
    def _check_size(cls, size: str | None) -> str | None:
        return None if size is None else str(Size.parse(size))


def _check_names(modes: Mapping[str, ModeSettings]) -> Mapping[str, ModeSettings]:
    for name in modes:
        if not _MODE_NAME.fullmatch(name):
            raise ValueError(f"a mode's name is of letters, digits and ' ._+:/-', which {name[:64]!r} is not")
    return modes


ModeTables = Annotated[Mapping[str, ModeSettings], AfterValidator(_check_names)]
"""Modes by name; the names are valid in headers."""
