"""Diagnose plugins, each in a separate process, so that a crash does not end imagegen."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from imagegen_core.distributions import BrokenDistribution, broken_distributions
from imagegen_core.plugins import comparison, probe, requirements
from imagegen_core.plugins.discovery import ENTRY_POINT_GROUP, Selection, find, unreadable
from imagegen_core.plugins.plugin import CORE, Plugin
from imagegen_core.plugins.probe import Report


def examine(own_commands: Iterable[str] = (), order: Sequence[str] = ()) -> Iterator[Plugin]:
    """Check each installed plugin, as `examined` does, and compare their offers; import no disabled ones.

    Args:
        own_commands: The names of imagegen's own commands, which no plugin may take.
        order: The setting ``backends``.
    """
    owners = {f"command {name}": CORE for name in own_commands}
    selection = Selection.from_environment()
    plugins = [plugin for plugin, _ in find(selection)]
    reports = {plugin.name: _described(plugin, owners) for plugin in plugins if plugin.status == "ok"}
    remarks = list(comparison.remarks_on(reports, order))
    for plugin in plugins:
        if plugin.status == "ok":
            checked = _loaded(plugin, reports[plugin.name])
            for sentence in (sentence for name, sentence in remarks if name == plugin.name):
                checked.remark(sentence)
            yield checked
        else:
            yield plugin
    yield from unreadable(selection)


def broken_neighbours() -> list[BrokenDistribution]:
    """List the distributions without plugins and with unreadable metadata."""
    return [broken for broken in broken_distributions() if not broken.names(ENTRY_POINT_GROUP)]


def examined(
    plugin: Plugin, describe_limit: float = probe.DESCRIBE_LIMIT, load_limit: float = probe.LOAD_LIMIT
) -> Plugin:
    """Check a plugin by importing it, calling its hooks, and importing its offers; compare its requirements.

    It is imported in separate processes, so that nothing of it remains in this one.

    Args:
        plugin: A plugin that may be imported.
        describe_limit: Seconds to state its offers.
        load_limit: Seconds to import its offers.
    """
    return _loaded(plugin, _described(plugin, {}, describe_limit), load_limit)


def _described(plugin: Plugin, owners: dict[str, str], limit: float = probe.DESCRIBE_LIMIT) -> Report:
    """Ask a plugin for its offers.

    Args:
        plugin: The plugin.
        owners: The distribution of each earlier offer; gains the plugin's offers.
        limit: The time limit in seconds.
    """
    report = _ask("describe", plugin, limit)
    for offer in list(report.plugin.offers):
        if owner := owners.get(offer):
            report.plugin.offers.remove(offer)
            report.plugin.clashes(offer, owner)
        else:
            owners[offer] = plugin.distribution
    return report


def _loaded(plugin: Plugin, described: Report, limit: float = probe.LOAD_LIMIT) -> Plugin:
    """Import a plugin's offers, and compare its requirements with the installed distributions."""
    ready = described.plugin.status == "ok" and described.references
    checked = _ask("load", plugin, limit).plugin if ready else described.plugin
    for sentence in requirements.unmet(plugin.distribution):
        checked.remark(sentence)
    return checked


def _ask(what: str, plugin: Plugin, limit: float) -> Report:
    """Check a plugin in a separate process; return its report, finished or not."""
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
        report = Report.read(path, plugin)
    if not report.finished:
        report.plugin.broke(f"it {end} {report.stage}", plugin.disable)
    return report


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
