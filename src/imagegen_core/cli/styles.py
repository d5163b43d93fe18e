"""``imagegen styles``: the styles for requests."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from imagegen_core.cli import console

app = typer.Typer(help="See the styles that requests can ask for.")


@app.callback()
def _group() -> None:
    """Keep `list` a subcommand while it is the only one."""


@app.command("list")
def list_styles(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List all styles, with the reason if one does not fit the configured checkpoint."""
    rows = _rows()
    if as_json:
        console.json_data(rows)
        return
    if not rows:
        console.say("No style found: set LORA_ROOT to a folder of LoRA files, or add [styles.NAME] to imagegen.toml")
    console.table(
        {
            "style": [row["style"] for row in rows],
            "levels": [" ".join(f"{level:g}" for level in row["levels"]) for row in rows],
            "usable": ["yes" if row["usable"] else "no" for row in rows],
            "from": [row["from"] for row in rows],
            "note": [row["note"] for row in rows],
        }
    )


def _rows() -> list[dict[str, Any]]:
    from imagegen_core.plugins.registry import Registry
    from imagegen_core.resolution.backends import select_backend
    from imagegen_core.resolution.checkpoints import resolve_checkpoint
    from imagegen_core.resolution.style_catalog import StyleCatalog
    from imagegen_core.settings import Settings

    settings, registry = Settings.load(), Registry.discover()
    backend = select_backend(registry, settings)
    settings = settings.for_backend(backend.environment_prefix)
    checkpoint = resolve_checkpoint(settings, backend, registry)
    catalog = StyleCatalog.of_files(checkpoint, settings, registry)
    return [
        {
            "style": style.id,
            "levels": list(style.levels),
            "usable": style.refusal is None,
            "from": style.source,
            "note": style.refusal or style.title,
            "path": str(style.path),
        }
        for style in catalog.values()
    ]
