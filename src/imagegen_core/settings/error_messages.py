"""Error messages for invalid settings."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from pydantic import ValidationError

from imagegen_core.settings.sources import Value, line
from imagegen_core.settings.tables import LoraSettings, ModeSettings, StyleSettings


def sentence(error: ValidationError, found: Mapping[str, Value], fields: Collection[str]) -> str:
    """Describe the first error, with the name of the value's source."""
    first = error.errors(include_url=False)[0]
    field = str(first["loc"][0])
    if first["type"] == "missing" and len(first["loc"]) == 1:
        return f"Missing setting {found[field].source}: give it"
    source = found[field].source
    if first["type"] == "extra_forbidden" and len(first["loc"]) > 1:
        return _unknown_key([str(part) for part in first["loc"]], found[field])
    if first["type"] == "extra_forbidden":
        return f"Unknown setting {source}: expected one of {', '.join(sorted(fields))}"
    inner = "".join(f".{part}" for part in first["loc"][1:])
    name = f"{source}, {field}{inner}:" if inner else source
    said = first["msg"].removeprefix("Value error, ")
    return f"Invalid {name} {first['input']!r}: {said[0].lower()}{said[1:]}"


def _unknown_key(keys: Sequence[str], value: Value) -> str:
    """Describe an unknown key of a table."""
    place = "" if value.file is None else f" in {value.file}{line(keys, value.text)}"
    table = LoraSettings if "loras" in keys[:-1] else ModeSettings if keys[0] == "modes" else StyleSettings
    return f"Unknown key {'.'.join(keys)}{place}: expected one of {', '.join(sorted(table.model_fields))}"
