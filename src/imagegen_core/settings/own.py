"""A backend's own settings: its table ``[NAME]`` in the file, and its variables ``NAME_*``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings

from imagegen_core.errors import SettingsError
from imagegen_core.settings.error_messages import sentence
from imagegen_core.settings.sources import Value

Own = TypeVar("Own", bound=BaseModel)


def prefix_of(name: str) -> str:
    """Return the prefix of a backend's variables."""
    return name.upper().replace("-", "_")


def validated(model: type[Own], values: Mapping[str, Value], name: str) -> Own:
    """Build a backend's own settings.

    A list or table in a variable is JSON, as in pydantic-settings.

    Raises:
        SettingsError: A value is malformed or missing.
    """
    made = _without_sources(model)
    given = {field: value.value for field, value in values.items()}
    try:
        return made(**given)
    except ValidationError:
        given = {field: _decoded(value) for field, value in given.items()}
    try:
        return made(**given)
    except ValidationError as error:
        field = str(error.errors(include_url=False)[0]["loc"][0])
        missing = Value(None, f"{name}.{field} or {prefix_of(name)}_{field.upper()}")
        raise SettingsError(sentence(error, {field: missing, **values}, model.model_fields)) from error


def _without_sources(model: type[Own]) -> type[Own]:
    """Return a pydantic-settings model that reads nothing itself."""
    if not issubclass(model, BaseSettings):
        return model

    class Given(model):  # type: ignore[misc, valid-type]
        @classmethod
        def settings_customise_sources(cls, _settings_cls: Any, init_settings: Any, *_: Any, **__: Any) -> tuple[Any]:
            return (init_settings,)

    return Given


def _decoded(value: object) -> object:
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value
