"""``imagegen config``: the settings in force, and the source of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from imagegen_core.cli import console

if TYPE_CHECKING:
    from imagegen_core.backend import Backend
    from imagegen_core.modes import Mode
    from imagegen_core.settings import Settings

app = typer.Typer(help="See the settings in force.")


@app.callback()
def _group() -> None:
    """Keep `show` a subcommand while it is the only one."""


@app.command()
def show(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show each setting with its value and source; then the settings of single backends, and the modes."""
    from imagegen_core.modes import load_modes, modes_path
    from imagegen_core.plugins.registry import Registry
    from imagegen_core.resolution.backend_settings import check_tables
    from imagegen_core.settings import Settings

    settings, registry = Settings.load(), Registry.discover()
    check_tables(settings, registry)
    rows = [_row(name, name, settings) for name in Settings.model_fields if name != "tables"]
    for backend in registry.backends.values():
        own = settings.for_backend(backend.environment_prefix)
        differing = [name for name in Settings.model_fields if own.source(name) != settings.source(name)]
        rows += [_row(f"{name} for {backend.name}", name, own) for name in differing]
        rows += _own_rows(backend, settings)
    modes = load_modes(settings)
    if modes.configured:
        source = str(modes_path(settings) or settings.source("modes"))
        rows += [_mode_row(mode, source, default=name == modes.default) for name, mode in modes.modes.items()]
    if as_json:
        console.json_data(rows)
        return
    columns = ("setting", "value", "from")
    console.table({column: ["" if row[column] is None else str(row[column]) for row in rows] for column in columns})


def _shown(name: str, value: Any) -> Any:
    """Hide the secrets of a value."""
    from imagegen_core.redaction import redact

    if name in ("api_keys", "admin_keys"):
        return ["…" for _ in value]
    return redact(value) if name == "storage_url" and value else value


def _row(title: str, name: str, settings: Any) -> dict[str, Any]:
    value = _shown(name, settings.model_dump(mode="json")[name])
    return {"setting": title, "value": value, "from": settings.source(name)}


def _own_rows(backend: Backend, settings: Settings) -> list[dict[str, Any]]:
    """Show a backend's own settings, such as ``mine.threads``; pydantic hides its ``SecretStr``."""
    from imagegen_core.resolution.backend_settings import own_settings

    own = own_settings(backend, settings)
    if own is None:
        return []
    sources = {name: value.source for name, value in settings.own_values(backend.name, type(own).model_fields).items()}
    return [
        {"setting": f"{backend.name}.{name}", "value": value, "from": sources.get(name, "default")}
        for name, value in own.model_dump(mode="json").items()
    ]


def _mode_row(mode: Mode, source: str, *, default: bool) -> dict[str, Any]:
    shown = mode.table.model_dump(mode="json", exclude_defaults=True) | {"model": mode.settings.model}
    return {"setting": f"mode {mode.name}" + (" (default)" if default else ""), "value": shown, "from": source}
