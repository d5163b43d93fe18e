"""What plugins add to the command line: each by itself first, so that none displaces a command of imagegen's own."""

from __future__ import annotations

from collections.abc import Iterator

import typer
from typer.main import get_group

from imagegen_core.plugins.plugin import Plugin


def scratch() -> typer.Typer:
    """An empty command line, for one plugin to add to."""
    return typer.Typer(rich_markup_mode=None)


def parts(added: typer.Typer) -> Iterator[tuple[list[str], typer.Typer]]:
    """Each command and group of a command line as one of its own, with the names it has there.

    typer makes commands of functions late: what it cannot make one of raises here.
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
    """Put a plugin's commands into `app`, but for those whose names are taken, which mark the plugin as broken.

    Args:
        plugin: Whose they are.
        made: What `parts` made of them.
        app: The command line.
        owners: The distribution that each command is from, by name; gains the plugin's.
    """
    for names, part in made:
        if taken := [name for name in names if name in owners]:
            plugin.clashes(f"command {taken[0]}", owners[taken[0]])
            continue
        app.registered_commands += part.registered_commands
        app.registered_groups += part.registered_groups
        owners.update(dict.fromkeys(names, plugin.distribution))
        plugin.offers += [f"command {name}" for name in names]
