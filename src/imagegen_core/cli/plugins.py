"""``imagegen plugins``: list the installed plugins, and diagnose their faults."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from typing import Annotated

import typer

from imagegen_core.cli import console, plugins_check, plugins_new
from imagegen_core.distributions import BrokenDistribution, duplicate_distributions
from imagegen_core.errors import SettingsError
from imagegen_core.plugins.description import described
from imagegen_core.plugins.isolation import LIMIT, limits_apply
from imagegen_core.plugins.plugin import Plugin
from imagegen_core.plugins.registry import Registry

app = typer.Typer(help="See which plugins are installed, and what is wrong with those that fail.")
app.command("new")(plugins_new.new)
app.command("check")(plugins_check.check)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_plugins(as_json: Json = False) -> None:
    """List the installed plugins and their offers."""
    from imagegen_core.cli.app import build_app
    from imagegen_core.models import hints

    registry = Registry.discover()
    registry.add_commands(build_app())
    plugins = registry.plugins
    if as_json:
        console.json_data([asdict(plugin) | described(plugin, registry) for plugin in plugins])
        return
    if not plugins:
        console.say(hints.NO_PLUGIN)
    console.table(
        {
            "plugin": [plugin.name for plugin in plugins],
            "distribution": [f"{plugin.distribution} {plugin.version}" for plugin in plugins],
            "status": [plugin.status for plugin in plugins],
            "offers": [", ".join(plugin.offers) for plugin in plugins],
        }
    )
    broken = sum(plugin.status == "broken" for plugin in plugins)
    if broken:
        console.say(f"{broken} broken: `imagegen plugins doctor` says why")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check every plugin in a separate process; report each fault and its remedy."""
    from imagegen_core.cli.app import build_app, own_commands
    from imagegen_core.plugins.doctor import broken_neighbours, examine

    if not limits_apply():
        console.say(f"Here a plugin that hangs is not interrupted after {LIMIT:g} s, except by this command")
    plugins = []
    for plugin in examine(own_commands(build_app()), _preferred_backends()):
        plugins.append(plugin)
        if not as_json:
            console.data(_finding(plugin))
    neighbours = [_neighbour(broken) for broken in broken_neighbours()]
    neighbours += [_duplicate(name, paths) for name, paths in duplicate_distributions().items()]
    for row in neighbours if not as_json else ():
        console.data("{distribution} ({path}): {status}\n  cause: {cause}\n  mend: {mend}".format(**row))
    if advice := _advice_for_cpu({plugin.distribution for plugin in plugins}):
        console.say(advice)
    if as_json:
        console.json_data([*map(asdict, plugins), *neighbours])
    raise typer.Exit(1 if any(plugin.status == "broken" for plugin in plugins) else 0)


def _advice_for_cpu(installed: Collection[str]) -> str | None:
    """Recommend the backend for a CPU, where there is no GPU and the backend is not installed."""
    from imagegen_core.models import hints
    from imagegen_core.resources.gpus import may_have_gpu

    backend, distribution = hints.CPU_BACKEND
    if may_have_gpu() or distribution in installed:
        return None
    return (
        f"There is no GPU: the backend '{backend}' took 0.91 to 0.95 of torch's time for full-size pictures on a CPU: "
        f"pip install {distribution}, set BACKEND={backend}, and compare both here with imagegen bench"
    )


def _preferred_backends() -> tuple[str, ...]:
    """Return the setting ``backends``; with a malformed configuration nothing, and a message."""
    from imagegen_core.settings import Settings

    try:
        return tuple(Settings.load().backends)
    except SettingsError as error:
        console.say(f"The doctor compares the plugins without the configuration: {error}")
        return ()


def _neighbour(broken: BrokenDistribution) -> dict[str, str]:
    return {
        "distribution": broken.name,
        "version": broken.version,
        "path": broken.path,
        "status": "broken, and not looked at by imagegen",
        "cause": broken.cause,
        "mend": broken.mend,
    }


def _duplicate(name: str, paths: list[str]) -> dict[str, str]:
    return {
        "distribution": name,
        "path": ", ".join(paths),
        "status": "there more than once",
        "cause": "an installation was interrupted, or copied over another",
        "mend": f"delete those folders, then pip install --force-reinstall {name}",
    }


def _finding(plugin: Plugin) -> str:
    lines = [f"{plugin.name} ({plugin.distribution} {plugin.version}): {plugin.status}"]
    if plugin.status != "ok":
        lines += [f"cause: {plugin.cause}", f"mend: {plugin.mend}"]
    return "\n  ".join([*lines, *(f"remark: {remark}" for remark in plugin.remarks)])
