"""The offers of the installed plugins, by name."""

from __future__ import annotations

import logging
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy

from imagegen_core.backend import Backend
from imagegen_core.errors import BackendNotFoundError, ModelNotFoundError, PluginError, SettingsError
from imagegen_core.extension import ExtensionDef
from imagegen_core.family import Family, Shapes
from imagegen_core.format import Format
from imagegen_core.images.upscaler import LANCZOS, WEIGHTS_SUFFIXES, UpscalerDef
from imagegen_core.importing import in_words
from imagegen_core.models.named import NamedModel
from imagegen_core.paths import expanded
from imagegen_core.plugins import hookspecs
from imagegen_core.plugins.discovery import Selection, discover
from imagegen_core.plugins.isolation import contained
from imagegen_core.plugins.plugin import CORE, Plugin
from imagegen_core.samplers import SAMPLERS, Sampler
from imagegen_core.storage.store import STORES, StoreDef
from imagegen_core.styles import StyleDef

if TYPE_CHECKING:
    import typer
    from fastapi import APIRouter

Offer = TypeVar("Offer", Backend, ExtensionDef, Family, Format, NamedModel, Sampler, StoreDef, StyleDef, UpscalerDef)

# Fields with values that every command relies on: the required type by the field's annotation.
_KINDS: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "str | None": (str, type(None)),
    "Path": Path,
    "tuple[str, ...]": (tuple, list),
    "tuple[int, ...]": (tuple, list),
    "int": int,
    "Mapping[str, str]": Mapping,
    "Mapping[str, tuple[str, ...]]": Mapping,
}

_log = logging.getLogger(__name__)


class Registry:
    """The plugins, and the offers of the working ones.

    Attributes:
        plugins: Every entry point of the group, including disabled and broken ones.
        backends: The backends by name.
        families: The families of checkpoints by name.
        formats: The plugins' formats of model files by name.
        models: The named models by name.
        styles: The plugins' styles by id.
        samplers: The samplers by name, including the core's own.
        extensions: The plugins' denoising extensions by name.
        upscalers: The upscalers by name, including lanczos.
        stores: The kinds of storage by name, including the core's own.
    """

    def __init__(self, found: Iterable[tuple[Plugin, ModuleType | None]]) -> None:
        """Ask the plugins for their offers. A failing plugin is marked as broken and left out.

        Args:
            found: Plugins with their modules, as `discover` yields them.
        """
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self.plugins: list[Plugin] = []
        self.backends: dict[str, Backend] = {}
        self.families: dict[str, Family] = {}
        self.formats: dict[str, Format] = {}
        self.models: dict[str, NamedModel] = {}
        self.styles: dict[str, StyleDef] = {}
        self.samplers: dict[str, Sampler] = {sampler.name: sampler for sampler in SAMPLERS}
        self.extensions: dict[str, ExtensionDef] = {}
        self.upscalers: dict[str, UpscalerDef] = {LANCZOS.name: LANCZOS}
        self.stores: dict[str, StoreDef] = {store.name: store for store in STORES}
        for plugin, module in found:
            self.plugins.append(plugin)
            if module is not None and self._register(plugin, module):
                self._collect(plugin, "imagegen_backends", Backend, "backend", self.backends)
                self._collect(plugin, "imagegen_families", Family, "family", self.families)
                self._collect(plugin, "imagegen_formats", Format, "format", self.formats)
                self._collect(plugin, "imagegen_models", NamedModel, "model", self.models)
                self._collect(plugin, "imagegen_styles", StyleDef, "style", self.styles)
                self._collect(plugin, "imagegen_samplers", Sampler, "sampler", self.samplers)
                self._collect(plugin, "imagegen_extensions", ExtensionDef, "extension", self.extensions)
                self._collect(plugin, "imagegen_upscalers", UpscalerDef, "upscaler", self.upscalers)
                self._collect(plugin, "imagegen_stores", StoreDef, "store", self.stores)

    @classmethod
    def discover(cls, environ: Mapping[str, str] | None = None) -> Registry:
        """Build the registry of the installed plugins.

        Args:
            environ: The environment with the allow- and deny-list; None means this process's.
        """
        return cls(discover(Selection.from_environment(environ)))

    def backend(self, name: str) -> Backend:
        """Return the backend called `name`.

        Raises:
            BackendNotFoundError: No plugin offers it.
            PluginError: Its plugin is broken or disabled.
        """
        if name in self.backends:
            return self.backends[name]
        self._refuse_if_not_ok("Backend", name)
        raise BackendNotFoundError(
            f"No backend '{name}' is installed: {self.installed()}, or pip install imagegen-{name}"
        )

    def upscaler(self, name: str | None = None) -> UpscalerDef:
        """Return the upscaler called `name`, or one for the file at that path; for None a plugin's first, else lanczos.

        Raises:
            ModelNotFoundError: No plugin offers it, and it is no path with one of `WEIGHTS_SUFFIXES`.
            PluginError: Its plugin is broken or disabled.
        """
        if name is None:
            return next((offer for offer in self.upscalers.values() if offer is not LANCZOS), LANCZOS)
        if name in self.upscalers:
            return self.upscalers[name]
        path = expanded(name)
        if path.suffix.lower() in WEIGHTS_SUFFIXES:
            return UpscalerDef(name=path.stem, summary=str(path), weights=path)
        self._refuse_if_not_ok("Upscaler", name)
        raise ModelNotFoundError(
            f"No upscaler '{name}': choose {' or '.join(sorted(self.upscalers))}, or give the path of a "
            f"{' or '.join(WEIGHTS_SUFFIXES)} file"
        )

    def store(self, name: str) -> StoreDef:
        """Return the kind of storage called `name`.

        Raises:
            SettingsError: There is none.
            PluginError: Its plugin is broken or disabled.
        """
        if name in self.stores:
            return self.stores[name]
        self._refuse_if_not_ok("Storage", name)
        raise SettingsError(f"Unknown storage '{name}': expected {', '.join(sorted(self.stores))} or disabled")

    def owner(self, offer: str) -> Plugin | None:
        """Return the plugin that made an offer, such as ``backend mine``; None if no plugin did."""
        return next((plugin for plugin in self.plugins if offer in plugin.offers), None)

    def family_of(self, shapes: Shapes) -> str | None:
        """Return the name of the family of a checkpoint file, or None: for plugins' formats that hold the same tensors.

        Args:
            shapes: The shapes of the file's tensors by their names, in torch's order of dimensions.
        """
        from imagegen_core.models.contents import checkpoint_contents

        contents = checkpoint_contents(shapes, self.families.values())
        return contents.family if contents else None

    def how_to_get(self, package: str | None) -> str:
        """Say how to get the plugin of a distribution, in words for an error message; None is no known distribution."""
        if package is None:
            return "no known package draws with it yet; install a plugin that does"
        for plugin in self.plugins:
            if plugin.distribution == package and plugin.status != "ok":
                return f"{package} is installed, and {plugin.status}: {plugin.cause}; {plugin.mend}"
        return f"pip install {package}"

    def installed(self) -> str:
        """List the installed backends, in words for an error message."""
        if not self.backends:
            return "no backend is installed at all"
        return f"installed {'is' if len(self.backends) == 1 else 'are'} {', '.join(sorted(self.backends))}"

    def add_commands(self, app: typer.Typer) -> None:
        """Let the plugins add their commands to `app`; its own commands keep their names."""
        from imagegen_core.plugins import additions

        owners = {name: CORE for names, _ in additions.parts(app) for name in names}
        for plugin in self.plugins:
            added = additions.scratch()
            self._call(plugin, "imagegen_cli", app=added)
            made = self._ask(plugin, "imagegen_cli", partial(additions.parts, added))
            additions.merge(plugin, made, app, owners)
            if added.registered_callback:
                plugin.broke("it sets the callback of the whole command line, which is imagegen's own", plugin.update)

    def add_routes(self, app: APIRouter) -> None:
        """Let the plugins add their routes to the server. If a plugin's hook raises, none of its routes are added."""
        from fastapi import APIRouter

        for plugin in self.plugins:
            added = APIRouter(route_class=app.route_class)
            worked = plugin.status == "ok"
            self._call(plugin, "imagegen_routes", app=added)
            if plugin.status == "ok":
                app.include_router(added)
            elif worked:
                _log.warning("The plugin %s adds no routes: %s; %s", plugin.name, plugin.cause, plugin.mend)

    def _refuse_if_not_ok(self, noun: str, name: str) -> None:
        """Raise an error if `name` is a broken or disabled plugin."""
        for plugin in self.plugins:
            if name in (plugin.name, plugin.distribution) and plugin.status != "ok":
                raise PluginError(
                    f"{noun} '{name}' is not available: its plugin {plugin.distribution} {plugin.version} is "
                    f"{plugin.status}, {plugin.cause}; {plugin.mend}"
                )

    def _register(self, plugin: Plugin, module: ModuleType) -> bool:
        with contained(plugin, "when its hooks are looked for", lambda error: _hook_failure(error, plugin)):
            self._manager.register(module, name=plugin.name)
            unknown = [hook for hook in _hook_names(module) if not hasattr(hookspecs, hook)]
            if unknown:
                plugin.broke(
                    f"it implements {unknown[0]}, which this imagegen-core does not know",
                    f"update imagegen-core, or {plugin.distribution}",
                )
        if plugin.status != "ok" and self._manager.has_plugin(plugin.name):
            self._manager.unregister(name=plugin.name)
        return plugin.status == "ok"

    def _collect(self, plugin: Plugin, hook: str, kind: type[Offer], noun: str, into: dict[str, Offer]) -> None:
        for offer in self._call(plugin, hook):
            if not isinstance(offer, kind):
                plugin.broke(f"{hook} returned {reprlib.repr(offer)} where a {kind.__name__} belongs", plugin.update)
                continue
            if wrong := _wrong_field(offer):
                plugin.broke(f"{hook} returned a {kind.__name__} whose {wrong}", plugin.update)
                continue
            name = (offer.id or offer.adapter_name) if isinstance(offer, StyleDef) else offer.name
            if name in into:
                owner = self.owner(f"{noun} {name}")
                plugin.clashes(f"{noun} {name}", owner.distribution if owner else CORE)
                continue
            into[name] = offer
            plugin.offers.append(f"{noun} {name}")

    def _call(self, plugin: Plugin, hook: str, **arguments: Any) -> list[Any]:
        """Call one plugin's hook and return its results; a failing hook breaks its plugin alone."""
        others = [module for name, module in self._manager.list_name_plugin() if name != plugin.name]

        def call() -> Iterator[Any]:
            results = self._manager.subset_hook_caller(hook, others)(**arguments)
            return (offer for result in results for offer in result or ())

        return self._ask(plugin, hook, call)

    def _ask(self, plugin: Plugin, hook: str, ask: Callable[[], Iterator[Any]]) -> list[Any]:
        """Return everything that `ask` yields; nothing if it fails, or if the plugin is not ok."""
        answers: list[Any] = []
        if plugin.status == "ok":
            with contained(plugin, f"in {hook}", lambda error: (f"{hook} raised {in_words(error)}", plugin.update)):
                answers = list(ask())
        return answers


def _hook_failure(error: BaseException, plugin: Plugin) -> tuple[str, str]:
    if isinstance(error, pluggy.PluginValidationError):
        return f"a hook has the wrong signature: {' '.join(str(error).split())}", plugin.update
    return f"looking for its hooks raised {in_words(error)}", plugin.update


def _hook_names(module: ModuleType) -> list[str]:
    marker = f"{hookspecs.PROJECT}_impl"
    return [name for name, value in vars(module).items() if callable(value) and hasattr(value, marker)]


def _wrong_field(offer: Offer) -> str | None:
    """Return the first field of a description with a wrong type, in words."""
    for field in fields(offer):
        value, kind = getattr(offer, field.name), _KINDS.get(str(field.type))
        if kind and not isinstance(value, kind):
            return f"{field.name} is {reprlib.repr(value)}, where {field.type} belongs"
    return offer.fault() if isinstance(offer, Family) else None
