"""``imagegen plugins``: what is installed, and what is wrong with it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from imagegen_core.cli import console
from imagegen_core.plugins.discovery import Plugin
from imagegen_core.plugins.registry import Registry

app = typer.Typer(help="See which plugins are installed, and what is wrong with those that fail.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_plugins(as_json: Json = False) -> None:
    """List the installed plugins and what they offer."""
    found = Registry.discover().plugins
    if as_json:
        console.json_data([asdict(plugin) for plugin in found])
        return
    if not found:
        console.say("No plugin is installed: pip install imagegen-sdxl, and imagegen-demo for a first picture")
    console.table(
        {
            "plugin": [plugin.name for plugin in found],
            "distribution": [f"{plugin.distribution} {plugin.version}" for plugin in found],
            "status": [plugin.status for plugin in found],
            "offers": [", ".join(plugin.offers) for plugin in found],
        }
    )
    broken = sum(plugin.status == "broken" for plugin in found)
    if broken:
        console.say(f"{broken} broken: `imagegen plugins doctor` says why")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Import every plugin and its workers, and say what is wrong and what mends it."""
    from imagegen_core.plugins.doctor import examine

    found = examine(Registry.discover())
    if as_json:
        console.json_data([asdict(plugin) for plugin in found])
    else:
        for plugin in found:
            console.data(_finding(plugin))
    raise typer.Exit(1 if any(plugin.status == "broken" for plugin in found) else 0)


def _finding(plugin: Plugin) -> str:
    head = f"{plugin.name} ({plugin.distribution} {plugin.version}): {plugin.status}"
    return head if plugin.status == "ok" else f"{head}\n  cause: {plugin.cause}\n  mend: {plugin.mend}"
