"""A closer look at the plugins: each in a process of its own, whose end is none of imagegen's."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from imagegen_core.distributions import BrokenDistribution, broken_distributions
from imagegen_core.plugins import probe
from imagegen_core.plugins.discovery import ENTRY_POINT_GROUP, Selection, find, unreadable
from imagegen_core.plugins.plugin import CORE, Plugin
from imagegen_core.plugins.probe import Report


def examine(own_commands: Iterable[str] = ()) -> Iterator[Plugin]:
    """Look at each installed plugin, as `examined` does; a disabled one is imported nowhere.

    Args:
        own_commands: The names of imagegen's own commands, which no plugin may take.
    """
    owners = {f"command {name}": CORE for name in own_commands}
    selection = Selection.from_environment()
    for plugin, _ in find(selection):
        yield examined(plugin, owners) if plugin.status == "ok" else plugin
    yield from unreadable(selection)


def broken_neighbours() -> list[BrokenDistribution]:
    """The distributions beside imagegen and its plugins whose metadata cannot be read."""
    return [broken for broken in broken_distributions() if not broken.names(ENTRY_POINT_GROUP)]


def examined(
    plugin: Plugin,
    owners: dict[str, str] | None = None,
    describe_limit: float = probe.DESCRIBE_LIMIT,
    load_limit: float = probe.LOAD_LIMIT,
) -> Plugin:
    """What is found out about a plugin by its import, its hooks, and the import of what it describes.

    All of it happens in processes of their own, so that nothing is left of it in this one.

    Args:
        plugin: One that may be imported.
        owners: The distribution that each offer is from already; gains the plugin's.
        describe_limit: Seconds in which it must say what it offers.
        load_limit: Seconds in which what it describes must be imported.
    """
    described, references = _ask("describe", plugin, describe_limit)
    owners = {} if owners is None else owners
    for offer in list(described.offers):
        if owner := owners.get(offer):
            described.offers.remove(offer)
            described.clashes(offer, owner)
        else:
            owners[offer] = plugin.distribution
    return _ask("load", plugin, load_limit)[0] if described.status == "ok" and references else described


def _ask(what: str, plugin: Plugin, limit: float) -> tuple[Plugin, dict[str, str]]:
    """What a process of its own finds out about a plugin, and what else of it there is to import."""
    with tempfile.TemporaryDirectory(prefix="imagegen-doctor-") as folder:
        path = Path(folder, "report.json")
        # -P: a module in the working directory is not taken for one of an installed plugin's.
        command = [sys.executable, "-P", "-m", probe.__name__, what, plugin.name, str(path)]
        null = subprocess.DEVNULL
        try:
            done = subprocess.run(command, timeout=limit, check=False, stdin=null, stdout=null, stderr=null)  # noqa: S603
            code = done.returncode
            end = f"ends the process by {_signal(-code)}" if code < 0 else f"ends the process with exit code {code}"
        except subprocess.TimeoutExpired:
            end = f"takes more than {limit:g} s and cannot be interrupted"
        report = Report.read(path)
    looked_at = report.plugin or plugin
    if not report.finished:
        looked_at.broke(f"it {end} {report.stage}", plugin.disable)
    return looked_at, report.references or {}


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
