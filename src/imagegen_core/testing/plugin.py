"""The contract of every plugin, whatever it offers."""

from __future__ import annotations

from typing import ClassVar

from imagegen_core.plugins.registry import Registry
from imagegen_core.testing.doctor import check_installed
from imagegen_core.testing.quick import QUICK


class PluginConformance:
    """The contract of every plugin, to inherit from: set `plugin` to the name of its entry point.

    Backends, samplers, stores, styles and upscalers have kits of their own, with this check among others.

    Attributes:
        plugin: The name of the plugin's entry point.
    """

    plugin: ClassVar[str]

    @QUICK
    def test_plugin_works(self) -> None:
        """Every command imports every plugin: a plugin that imports torch, prints or is broken harms all of them."""
        installed = {plugin.name: plugin for plugin in Registry.discover().plugins}
        assert self.plugin in installed, f"no plugin {self.plugin!r} is installed: there are {', '.join(installed)}"
        check_installed(installed[self.plugin])
