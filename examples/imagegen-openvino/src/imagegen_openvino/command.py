"""``imagegen openvino``: make folders for the backend."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imagegen_core import PluginError, Registry, Settings, locate


def group() -> typer.Typer:
    """Return the group of commands."""
    app = typer.Typer(help="Draw with OpenVINO: make the folders that it loads.")
    app.callback()(lambda: None)  # otherwise, typer replaces the group by its only command
    app.command("export")(export)
    return app


def export(
    checkpoint: Annotated[
        str, typer.Argument(help="A diffusers-format folder: a path, a name below MODEL_ROOT, or a plugin's, as demo.")
    ],
    folder: Annotated[Path, typer.Argument(help="The folder to write; it must not hold anything yet.")],
) -> None:
    """Export a checkpoint to OpenVINO."""
    try:
        from imagegen_openvino.exporting import export_checkpoint
    except ImportError as error:
        raise PluginError(
            f"Exporting needs torch and diffusers ({error}): pip install 'imagegen-openvino[export]'"
        ) from error
    registry = Registry.discover()
    source = locate(checkpoint, Settings.load().model_root, registry.models)
    export_checkpoint(source, folder)
    typer.echo(f"{folder}  draw with it: imagegen generate --model {folder} PROMPT")
