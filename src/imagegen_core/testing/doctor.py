"""The doctor's check of a plugin."""

from __future__ import annotations

import pytest

from imagegen_core.plugins.doctor import examined
from imagegen_core.plugins.plugin import Plugin
from imagegen_core.plugins.registry import Registry


def check_plugin(noun: str, name: str) -> None:
    """Fail if the doctor finds a fault in the plugin with, say, the ``backend`` called `name`."""
    offering = next((plugin for plugin in Registry.discover().plugins if f"{noun} {name}" in plugin.offers), None)
    if offering is None:
        pytest.skip(f"the {noun} {name} is imagegen's own, and comes with no plugin")
    check_installed(offering)


def check_installed(installed: Plugin) -> None:
    """Fail if the doctor finds a fault in an installed plugin."""
    plugin = examined(installed)
    assert plugin.status == "ok", f"{plugin.cause}; {plugin.mend}"
    assert not plugin.remarks, "; ".join(plugin.remarks)
