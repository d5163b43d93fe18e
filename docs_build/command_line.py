"""The page of all commands, made from the command line itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tables import table
from typer.main import get_command

from imagegen_core.cli.app import build_app

_INTRODUCTION = """# Command line

Data goes to stdout, messages to stderr. On a terminal, tables are drawn. Otherwise they are tab-separated lines.
`--json` gives JSON. Plugins may add commands.

| exit code | meaning |
|---|---|
| 0 | success |
| 1 | `imagegen plugins doctor` found a broken plugin, or `imagegen plugins check` a failing check |
| 2 | a fault of the input, the configuration or the model, explained in one sentence |
| 130 | interrupted |
"""


def page() -> str:
    """Return the page as Markdown, without commands of plugins."""
    root = get_command(build_app())
    return "\n".join([_INTRODUCTION, *_sections("imagegen", root)])


def _sections(path: str, command: Any) -> Iterator[str]:
    """Yield the sections of a command and its subcommands; a group of commands has no section of its own."""
    below = getattr(command, "commands", {})
    if not below:
        yield _section(path, command)
    for name, subcommand in below.items():
        yield from _sections(f"{path} {name}", subcommand)


def _section(path: str, command: Any) -> str:
    context = command.context_class(command, info_name=path)
    usage = command.get_usage(context).removeprefix("Usage: ")
    parts = [f"## {path}", command.help, f"```text\n{' '.join(usage.split())}\n```"]
    for kind, meaning in (("argument", "meaning"), ("option", "meaning")):
        records = [
            parameter.get_help_record(context) for parameter in command.params if parameter.param_type_name == kind
        ]
        rows = [(f"`{name}`", help_text) for name, help_text in filter(None, records)]
        parts += [table([kind, meaning], rows)] if rows else []
    return "\n\n".join([*parts, ""])
