"""Diagnose plugins, each in a separate process, so that a crash does not end imagegen."""

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
    """Check each installed plugin, as `examined` does, without importing disabled ones.

    Args:
        own_commands: The names of imagegen's own commands, which no plugin may take.
    """
    owners = {f"command {name}": CORE for name in own_commands}
    selection = Selection.from_environment()
    for plugin, _ in find(selection):
        yield examined(plugin, owners) if plugin.status == "ok" else plugin
    yield from unreadable(selection)


def broken_neighbours() -> list[BrokenDistribution]:
    """List the distributions without plugins and with unreadable metadata."""
    return [broken for broken in broken_distributions() if not broken.names(ENTRY_POINT_GROUP)]


def examined(
    plugin: Plugin,
    owners: dict[str, str] | None = None,
    describe_limit: float = probe.DESCRIBE_LIMIT,
    load_limit: float = probe.LOAD_LIMIT,
) -> Plugin:
    """Check a plugin by importing it, calling its hooks, and importing its offers.

    All of this happens in separate processes, so that nothing of it remains in this one.

    Args:
        plugin: A plugin that may be imported.
        owners: The distribution of each earlier offer; gains the plugin's offers.
        describe_limit: Seconds to state its offers.
        load_limit: Seconds to import its offers.
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
    """Check a plugin in a separate process; return its state, and the remaining references to import."""
    with tempfile.TemporaryDirectory(prefix="imagegen-doctor-") as folder:
        path = Path(folder, "report.json")
        # -P: a module in the working directory must not replace a module of an installed plugin.
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
