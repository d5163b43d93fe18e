"""The commands that plugins add. Each plugin adds to a separate app first, so none replaces imagegen's commands."""

from __future__ import annotations

from collections.abc import Iterator

import typer
from typer.main import get_group

from imagegen_core.plugins.plugin import Plugin


def scratch() -> typer.Typer:
    """Return an empty command line for one plugin to add to."""
    return typer.Typer(rich_markup_mode=None)


def parts(added: typer.Typer) -> Iterator[tuple[list[str], typer.Typer]]:
    """Yield each command and group of a command line as a command line of its own, with its names.

    typer builds commands from functions late. A function that it cannot use raises here.
    """
    for command in added.registered_commands:
        part = scratch()
        part.registered_commands.append(command)
        yield list(get_group(part).commands), part
    for group in added.registered_groups:
        part = scratch()
        part.registered_groups.append(group)
        yield list(get_group(part).commands), part


def merge(plugin: Plugin, made: list[tuple[list[str], typer.Typer]], app: typer.Typer, owners: dict[str, str]) -> None:
    """Merge a plugin's commands into `app`. A command with a taken name is left out, and marks the plugin as broken.

    Args:
        plugin: The plugin.
        made: Its commands from `parts`.
        app: The command line.
        owners: The distribution of each command, by name; gains the plugin's commands.
    """
    for names, part in made:
        if taken := [name for name in names if name in owners]:
            plugin.clashes(f"command {taken[0]}", owners[taken[0]])
            continue
        app.registered_commands += part.registered_commands
        app.registered_groups += part.registered_groups
        owners.update(dict.fromkeys(names, plugin.distribution))
        plugin.offers += [f"command {name}" for name in names]
