"""``imagegen serve``: run the HTTP server."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Annotated

import typer

from imagegen_core.importing import load_named


def _end(_signal: int, _frame: FrameType | None) -> None:
    raise typer.Exit


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 is any that is free. [default: 4200]")] = None,
    model: Annotated[
        str | None, typer.Option(help="Checkpoint: a path, a name below MODEL_ROOT, or a plugin's, such as demo.")
    ] = None,
    backend: Annotated[str | None, typer.Option(help="Backend to draw with; see `imagegen plugins list`.")] = None,
    engine: Annotated[
        str | None, typer.Option(help="local draws in this process, ray on a Ray cluster. [default: local]")
    ] = None,
    replicas: Annotated[int | None, typer.Option(help="Processes that draw on the cluster. [default: 1]")] = None,
) -> None:
    """Serve pictures over HTTP, with a web page to try it."""
    from imagegen_core.settings import Settings

    # A container's first process ignores signals without a handler. The server sets its own handlers once it runs.
    signal.signal(signal.SIGTERM, _end)
    settings = Settings.load(host=host, port=port, model=model, backend=backend, engine=engine, replicas=replicas)
    serve = "imagegen_core.cluster.run:serve" if settings.engine == "ray" else "imagegen_core.server.run:serve"
    load_named("The server", serve)(settings)
