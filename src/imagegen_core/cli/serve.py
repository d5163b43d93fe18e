"""``imagegen serve``: the engine behind HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from imagegen_core.errors import ImagegenError


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 is any that is free. [default: 4200]")] = None,
    model: Annotated[
        str | None, typer.Option(help="Checkpoint: a path, a name below MODEL_ROOT, or a plugin's, such as demo.")
    ] = None,
    backend: Annotated[str | None, typer.Option(help="Backend to draw with; see `imagegen plugins list`.")] = None,
) -> None:
    """Serve pictures over HTTP, and a page to play on."""
    from imagegen_core.settings import Settings

    try:
        from imagegen_core.server.run import serve as run
    except ImportError as error:
        raise ImagegenError(f"The server cannot be used ({error}): pip install 'imagegen-core[server]'") from error
    run(Settings.load(host=host, port=port, model=model, backend=backend))
