"""``imagegen models``: the checkpoints that can be named."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imagegen_core.cli import console

app = typer.Typer(help="See the checkpoints that can be named.")


@app.callback()
def _group() -> None:
    """Keeps `list` a subcommand while it is the only one."""


@app.command("list")
def list_models(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the plugins' named models and the checkpoints below the model root, the unusable with their reason."""
    from imagegen_core.models.locate import checkpoints_below
    from imagegen_core.plugins.registry import Registry
    from imagegen_core.settings import Settings

    root = Settings.load().model_root
    named = Registry.discover().models.values()
    rows = [_row(model.name, model.path, model.summary) for model in named]
    if root is not None:
        rows += [_row(str(path.relative_to(root)), path, "") for path in checkpoints_below(root)]
    if as_json:
        console.json_data(rows)
        return
    if not rows:
        console.say("No checkpoint found: set MODEL_ROOT to the folder that holds yours, or pip install imagegen-demo")
    columns = ("name", "family", "size", "note")
    console.table({column: [row[column] for row in rows] for column in columns})


def _row(name: str, path: Path, note: str) -> dict[str, str]:
    from imagegen_core.errors import ModelLoadError
    from imagegen_core.models.inspect import architecture, native_size

    try:
        return {
            "name": name,
            "family": architecture(path),
            "size": native_size(path, default=""),
            "note": note,
            "path": str(path),
        }
    except ModelLoadError as error:
        return {"name": name, "family": "unusable", "size": "", "note": str(error), "path": str(path)}
