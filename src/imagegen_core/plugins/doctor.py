"""A closer look at the plugins: whether what they describe can also be imported."""

from __future__ import annotations

from imagegen_core.errors import PluginError
from imagegen_core.plugins.discovery import Plugin
from imagegen_core.plugins.registry import Registry


def examine(registry: Registry) -> list[Plugin]:
    """The registry's plugins after an import of each backend's worker; those that fail are marked as broken."""
    for plugin in registry.plugins:
        for offer in plugin.offers:
            noun, _, name = offer.partition(" ")
            if noun == "backend":
                _import_worker(registry, plugin, name)
    return registry.plugins


def _import_worker(registry: Registry, plugin: Plugin, name: str) -> None:
    try:
        registry.backends[name].load()
    except PluginError as error:
        missing = getattr(error.__cause__, "name", None)
        mend = (
            f"pip install {missing}"
            if isinstance(error.__cause__, ModuleNotFoundError)
            else f"update {plugin.distribution}"
        )
        plugin.broke(f"its worker does not import: {error.__cause__}", mend)
