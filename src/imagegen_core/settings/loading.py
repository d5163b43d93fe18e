"""The sources of `Settings` for pydantic-settings: the environment and the configuration files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from imagegen_core.settings.sources import Value, from_environment, from_file, line

_TABLES = "tables"


class TracedSource(PydanticBaseSettingsSource):
    """A source with the place of each value.

    Attributes:
        values: The values by field; unknown keys are included, so that `Settings` refuses them.
        places: The places of the keys in backends' own tables, such as ``mine.model``.
    """

    def __init__(
        self, settings_cls: type[BaseSettings], values: Mapping[str, Value], places: Mapping[str, str] | None = None
    ) -> None:
        """Take the values."""
        super().__init__(settings_cls)
        self.values = values
        self.places = places or {}

    @classmethod
    def environment(cls, settings_cls: type[BaseSettings], environ: Mapping[str, str]) -> TracedSource:
        """Read the variables of an environment."""
        return cls(settings_cls, from_environment(environ, settings_cls.model_fields))

    @classmethod
    def files(cls, settings_cls: type[BaseSettings], files: tuple[Path, ...]) -> TracedSource:
        """Read configuration files; a key in a later file replaces the key in an earlier file.

        Tables with other names than the fields go into the field ``tables``.

        Raises:
            SettingsError: A file cannot be read.
        """
        values, tables, places = dict[str, Value](), dict[str, Any](), dict[str, str]()
        known = settings_cls.model_fields.keys() - {_TABLES}
        for file in files:
            for key, value in from_file(file).items():
                if key in known or not isinstance(value.value, dict):
                    values[key] = value
                    continue
                tables[key] = value.value
                places |= {
                    f"{key}.{name}": f"{key}.{name} in {file}{line((key, name), value.text)}" for name in value.value
                }
        if tables:
            values[_TABLES] = Value(tables, " and ".join(map(str, files)))
        return cls(settings_cls, values, places)

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        """Return a field's value, its key, and whether it is JSON text: never."""
        value = self.values.get(field_name)
        return (None if value is None else value.value), field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return all values by field."""
        return {field: value.value for field, value in self.values.items()}
