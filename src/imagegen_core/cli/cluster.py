"""``imagegen cluster``: serve from many machines, with Ray Serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imagegen_core.cli import console
from imagegen_core.errors import OutputError
from imagegen_core.importing import load_named

app = typer.Typer(no_args_is_help=True, help="Serve from many machines, by Ray Serve.")


@app.callback()
def _group() -> None:
    """Serve from many machines, by Ray Serve."""


@app.command()
def config(
    model: Annotated[
        str | None, typer.Option(help="Checkpoint: a path, a name below MODEL_ROOT, or a plugin's, such as demo.")
    ] = None,
    backend: Annotated[str | None, typer.Option(help="Backend to draw with; see `imagegen plugins list`.")] = None,
    replicas: Annotated[int | None, typer.Option(help="Processes that draw; the least. [default: 1]")] = None,
    max_replicas: Annotated[int | None, typer.Option(help="The most, where they come and go by load.")] = None,
    host: Annotated[str | None, typer.Option(help="Address that each machine listens on. [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port that each machine listens on. [default: 4200]")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write instead of stdout.")] = None,
) -> None:
    """Write the configuration for `serve deploy`, from these settings."""
    from imagegen_core.settings import Settings

    settings = Settings.load(
        model=model, backend=backend, replicas=replicas, max_replicas=max_replicas, host=host, port=port
    )
    text = load_named("Ray", "imagegen_core.cluster.config_file:config_text")(settings)
    if output is None:
        console.data(text.rstrip("\n"))
        return
    try:
        output.write_text(text)
    except OSError as error:
        raise OutputError(f"Cannot write {output}: {error.strerror}") from error
