"""The own settings of backends: check them, and resolve them for other processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from pydantic import BaseModel

from imagegen_core.backend import Backend
from imagegen_core.errors import SettingsError
from imagegen_core.importing import load_named
from imagegen_core.plugins.registry import Registry
from imagegen_core.settings import Settings
from imagegen_core.settings.sources import PER_BACKEND, Value


def settings_model(backend: Backend) -> type[BaseModel] | None:
    """Import the model of a backend's own settings; None if it has none.

    Raises:
        PluginError: It cannot be imported.
    """
    if backend.settings is None:
        return None
    return cast("type[BaseModel]", load_named(f"The settings of backend '{backend.name}'", backend.settings))


def own_settings(backend: Backend, settings: Settings) -> BaseModel | None:
    """Return a backend's own settings, validated; None if it has none.

    Raises:
        SettingsError: A key is unknown, or a value is malformed.
        PluginError: Their model cannot be imported.
    """
    model = settings_model(backend)
    fields = [*(model.model_fields if model else ()), *PER_BACKEND]
    for key in settings.tables.get(backend.name, {}):
        if key not in fields:
            raise SettingsError(
                f"Unknown key {settings.place(backend.name, key)}: expected one of {', '.join(sorted(fields))}"
            )
    return None if model is None else settings.own(backend.name, model)


def check_tables(settings: Settings, registry: Registry) -> None:
    """Refuse a table that belongs to no setting and to no installed backend; a broken plugin's may stay.

    Raises:
        SettingsError: There is such a table.
    """
    left_alone = {plugin.name for plugin in registry.plugins if plugin.status != "ok"}
    for name, table in settings.tables.items():
        if name not in registry.backends and name not in left_alone:
            place = settings.place(name, next(iter(table), ""))
            raise SettingsError(
                f"Unknown table [{name}] ({place}): expected a table of the settings, or of an installed backend, "
                f"{' or '.join(sorted(registry.backends)) or 'of which there is none'}"
            )


def with_resolved_tables(settings: Settings, registry: Registry) -> Settings:
    """Return the settings with all backends' own values as arguments, for a process with other variables and files.

    Raises:
        SettingsError: A backend's key is unknown, or its value malformed.
        PluginError: A model cannot be imported.
    """
    tables = {backend.name: resolved_values(backend, settings) for backend in registry.backends.values()}
    given = {name: {key: value.value for key, value in values.items()} for name, values in tables.items() if values}
    return settings.override(tables=given) if given else settings


def resolved_values(backend: Backend, settings: Settings) -> Mapping[str, Value]:
    """Return a backend's own values with their sources: its model's, and its ``model`` and ``model_root``.

    Raises:
        SettingsError: A key is unknown, or a value malformed.
        PluginError: Its model cannot be imported.
    """
    own_settings(backend, settings)
    model = settings_model(backend)
    values: dict[str, Any] = settings.own_values(backend.name, model.model_fields) if model else {}
    general = settings.for_backend(backend.environment_prefix)
    for field in PER_BACKEND:
        if general.source(field) != settings.source(field):
            values.setdefault(field, Value(str(getattr(general, field)), general.source(field)))
    return values
