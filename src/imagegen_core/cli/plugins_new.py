"""``imagegen plugins new``: create a project for a new plugin."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from imagegen_core.cli import console
from imagegen_core.scaffold.kinds import Kind


def new(
    name: Annotated[str, typer.Argument(help="What the plugin is called, such as my-clouds.")],
    kind: Annotated[Kind, typer.Option("--kind", "-k", help="What it offers.")],
    folder: Annotated[
        Path | None, typer.Option("--folder", "-o", help="Where its project is written.", show_default="imagegen-NAME")
    ] = None,
) -> None:
    """Write the project of a new plugin that works and passes the conformance kit as it is.

    Its author is the name in git's configuration.
    """
    from imagegen_core.plugins.registry import Registry
    from imagegen_core.scaffold.author import find_author
    from imagegen_core.scaffold.names import PluginName, refuse_taken
    from imagegen_core.scaffold.project import write_project

    plugin = PluginName.parse(name)
    refuse_taken(plugin, kind, Registry.discover())
    folder = folder or Path(plugin.distribution)
    for path in write_project(plugin, kind, folder, find_author()):
        console.data(str(folder / path))
    console.say(
        f"The {kind} '{name}' is written. Next:\n"
        f"  cd {shlex.quote(str(folder))} && pip install -e '.[testing]'\n"
        f"  imagegen plugins list\n"
        f"  pytest"
    )
