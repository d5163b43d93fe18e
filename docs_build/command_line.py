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
    """The page as Markdown, of the commands that no plugin adds."""
    root = get_command(build_app())
    return "\n".join([_INTRODUCTION, *_sections("imagegen", root)])


def _sections(path: str, command: Any) -> Iterator[str]:
    """The sections of a command and those below it; of a group that only holds commands, none of its own."""
    below = getattr(command, "commands", {})
    if not below:
        yield _section(path, command)
    for name, one in below.items():
        yield from _sections(f"{path} {name}", one)


def _section(path: str, command: Any) -> str:
    context = command.context_class(command, info_name=path)
    usage = command.get_usage(context).removeprefix("Usage: ")
    parts = [f"## {path}", command.help, f"```text\n{' '.join(usage.split())}\n```"]
    for kind, meaning in (("argument", "meaning"), ("option", "meaning")):
        records = [one.get_help_record(context) for one in command.params if one.param_type_name == kind]
        rows = [(f"`{name}`", said) for name, said in filter(None, records)]
        parts += [table([kind, meaning], rows)] if rows else []
    return "\n\n".join([*parts, ""])
