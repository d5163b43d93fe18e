"""What the installed plugins offer, under the names by which it is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy

from imagegen_core.backend import Backend
from imagegen_core.errors import BackendNotFoundError, ModelNotFoundError, PluginError, SettingsError
from imagegen_core.images.upscaler import LANCZOS, WEIGHTS_SUFFIXES, UpscalerDef
from imagegen_core.models.named import NamedModel
from imagegen_core.plugins import hookspecs
from imagegen_core.plugins.discovery import Plugin, Selection, discover
from imagegen_core.samplers import SAMPLERS, Sampler
from imagegen_core.storage.store import STORES, StoreDef
from imagegen_core.styles import StyleDef

if TYPE_CHECKING:
    import typer
    from fastapi import APIRouter

Offer = TypeVar("Offer", Backend, NamedModel, Sampler, StoreDef, StyleDef, UpscalerDef)


class Registry:
    """The plugins found, and the backends, named models and styles of those that work.

    Attributes:
        plugins: Every entry point of the group, also the disabled and the broken.
        backends: The backends by name.
        models: The named models by name.
        styles: The plugins' styles by id.
        samplers: The samplers by name, the core's own among them.
        upscalers: The upscalers by name, lanczos among them.
        stores: The kinds of storage by name, the core's own among them.
    """

    def __init__(self, found: Iterable[tuple[Plugin, ModuleType | None]]) -> None:
        """Ask the plugins what they offer; one that fails is marked as broken and left out.

        Args:
            found: Plugins with their modules, as `discover` yields them.
        """
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self.plugins: list[Plugin] = []
        self.backends: dict[str, Backend] = {}
        self.models: dict[str, NamedModel] = {}
        self.styles: dict[str, StyleDef] = {}
        self.samplers: dict[str, Sampler] = {sampler.name: sampler for sampler in SAMPLERS}
        self.upscalers: dict[str, UpscalerDef] = {LANCZOS.name: LANCZOS}
        self.stores: dict[str, StoreDef] = {store.name: store for store in STORES}
        for plugin, module in found:
            self.plugins.append(plugin)
            if module is not None and self._register(plugin, module):
                self._collect(plugin, "imagegen_backends", Backend, "backend", self.backends)
                self._collect(plugin, "imagegen_models", NamedModel, "model", self.models)
                self._collect(plugin, "imagegen_styles", StyleDef, "style", self.styles)
                self._collect(plugin, "imagegen_samplers", Sampler, "sampler", self.samplers)
                self._collect(plugin, "imagegen_upscalers", UpscalerDef, "upscaler", self.upscalers)
                self._collect(plugin, "imagegen_stores", StoreDef, "store", self.stores)

    @classmethod
    def discover(cls, environ: Mapping[str, str] | None = None) -> Registry:
        """The registry of the installed plugins; `environ` (None: this process's) holds the allow- and deny-list."""
        return cls(discover(Selection.from_environment(environ)))

    def backend(self, name: str) -> Backend:
        """The backend called `name`.

        Raises:
            BackendNotFoundError: No plugin offers it.
            PluginError: The plugin that should is broken or disabled.
        """
        if name in self.backends:
            return self.backends[name]
        self._refuse_if_not_ok("Backend", name)
        raise BackendNotFoundError(
            f"No backend '{name}' is installed: {self.installed()}, or pip install imagegen-{name}"
        )

    def upscaler(self, name: str | None = None) -> UpscalerDef:
        """The upscaler called `name`, or the network in the file of that path; None: a plugin's first, else lanczos.

        Raises:
            ModelNotFoundError: No plugin offers it, and it is no path of a ``.pth`` or ``.safetensors`` file.
            PluginError: The plugin that should offer it is broken or disabled.
        """
        if name is None:
            return next((offer for offer in self.upscalers.values() if offer is not LANCZOS), LANCZOS)
        if name in self.upscalers:
            return self.upscalers[name]
        path = Path(name).expanduser()
        if path.suffix.lower() in WEIGHTS_SUFFIXES:
            return UpscalerDef(name=path.stem, summary=str(path), weights=path)
        self._refuse_if_not_ok("Upscaler", name)
        raise ModelNotFoundError(
            f"No upscaler '{name}': choose {' or '.join(sorted(self.upscalers))}, or give the path of a "
            f"{' or '.join(WEIGHTS_SUFFIXES)} file"
        )

    def store(self, name: str) -> StoreDef:
        """The kind of storage called `name`.

        Raises:
            SettingsError: There is none.
            PluginError: The plugin that should offer it is broken or disabled.
        """
        if name in self.stores:
            return self.stores[name]
        self._refuse_if_not_ok("Storage", name)
        raise SettingsError(f"Unknown storage '{name}': expected {', '.join(sorted(self.stores))} or disabled")

    def installed(self) -> str:
        """The installed backends, in words for an error message."""
        if not self.backends:
            return "no backend is installed at all"
        return f"installed {'is' if len(self.backends) == 1 else 'are'} {', '.join(sorted(self.backends))}"

    def add_commands(self, app: typer.Typer) -> None:
        """Let the plugins add their commands to `app`."""
        for plugin in self.plugins:
            self._call(plugin, "imagegen_cli", app=app)

    def add_routes(self, app: APIRouter) -> None:
        """Let the plugins add their routes to the server."""
        for plugin in self.plugins:
            self._call(plugin, "imagegen_routes", app=app)

    def _refuse_if_not_ok(self, noun: str, name: str) -> None:
        """Say why what is called as a plugin is not there, where that plugin is broken or disabled."""
        for plugin in self.plugins:
            if name in (plugin.name, plugin.distribution) and plugin.status != "ok":
                raise PluginError(
                    f"{noun} '{name}' is not available: its plugin {plugin.distribution} {plugin.version} is "
                    f"{plugin.status}, {plugin.cause}; {plugin.mend}"
                )

    def _register(self, plugin: Plugin, module: ModuleType) -> bool:
        try:
            self._manager.register(module, name=plugin.name)
            unknown = [hook for hook in _hook_names(module) if not hasattr(hookspecs, hook)]
        except pluggy.PluginValidationError as error:
            self._manager.unregister(name=plugin.name)
            plugin.broke(f"a hook has the wrong signature: {error}", f"update {plugin.distribution}")
            return False
        if unknown:
            plugin.broke(
                f"it implements {unknown[0]}, which this imagegen-core does not know",
                f"update imagegen-core, or {plugin.distribution}",
            )
        return not unknown

    def _collect(self, plugin: Plugin, hook: str, kind: type[Offer], noun: str, into: dict[str, Offer]) -> None:
        for offer in self._call(plugin, hook):
            if not isinstance(offer, kind):
                plugin.broke(
                    f"{hook} returned {offer!r} where a {kind.__name__} belongs",
                    f"update {plugin.distribution}",
                )
                continue
            name = offer.id if isinstance(offer, StyleDef) else offer.name
            if name in into:
                offering = (p.distribution for p in self.plugins if f"{noun} {name}" in p.offers)
                plugin.broke(
                    f"its {noun} '{name}' is already offered by {next(offering, 'imagegen-core')}",
                    f"disable one of the two: IMAGEGEN_PLUGINS_DISABLED={plugin.name}",
                )
                continue
            into[name] = offer
            plugin.offers.append(f"{noun} {name}")

    def _call(self, plugin: Plugin, hook: str, **arguments: Any) -> list[Any]:
        """What one plugin's hook returns; a hook that raises breaks its plugin alone."""
        if plugin.status != "ok":
            return []
        others = [module for name, module in self._manager.list_name_plugin() if name != plugin.name]
        try:
            results = self._manager.subset_hook_caller(hook, others)(**arguments)
            return [offer for result in results for offer in result or ()]
        except (Exception, SystemExit) as error:  # noqa: BLE001 - see discovery: a stranger's code
            plugin.broke(f"{hook} raised {type(error).__name__}: {error}", f"update {plugin.distribution}")
            return []


def _hook_names(module: ModuleType) -> list[str]:
    marker = f"{hookspecs.PROJECT}_impl"
    return [name for name, value in vars(module).items() if callable(value) and hasattr(value, marker)]
