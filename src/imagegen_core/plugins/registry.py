"""The offers of the installed plugins, by name."""

from __future__ import annotations

import logging
import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from functools import cached_property
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
from imagegen_core.parameter import Parameter
from imagegen_core.paths import expanded
from imagegen_core.plugins import hookspecs
from imagegen_core.plugins.discovery import Selection, discover
from imagegen_core.plugins.guarding import Guard, PerPlugin, hook_of, marked, unknown_hooks
from imagegen_core.plugins.isolation import contained
from imagegen_core.plugins.offering import OfferGuard, Owners
from imagegen_core.plugins.plugin import CORE, Plugin
from imagegen_core.samplers import SAMPLERS, Sampler
from imagegen_core.storage.store import STORES, StoreDef
from imagegen_core.styles import StyleDef

if TYPE_CHECKING:
    import typer
    from fastapi import APIRouter

    from imagegen_core.plugins.job_hooks import JobHooks

Offer = TypeVar(
    "Offer", Backend, ExtensionDef, Family, Format, NamedModel, Parameter, Sampler, StoreDef, StyleDef, UpscalerDef
)

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
        parameters: The plugins' parameters of requests by name.
    """

    def __init__(self, found: Iterable[tuple[Plugin, ModuleType | None]]) -> None:
        """Ask the plugins for their offers. A failing plugin is marked as broken and left out.

        Args:
            found: Plugins with their modules, as `discover` yields them.
        """
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._owners = Owners()
        self.backends: dict[str, Backend] = {}
        self.families: dict[str, Family] = {}
        self.formats: dict[str, Format] = {}
        self.models: dict[str, NamedModel] = {}
        self.styles: dict[str, StyleDef] = {}
        self.samplers: dict[str, Sampler] = {sampler.name: sampler for sampler in SAMPLERS}
        self.extensions: dict[str, ExtensionDef] = {}
        self.upscalers: dict[str, UpscalerDef] = {LANCZOS.name: LANCZOS}
        self.stores: dict[str, StoreDef] = {store.name: store for store in STORES}
        self.parameters: dict[str, Parameter] = {}
        modules = [*found]
        self.plugins = [plugin for plugin, _ in modules]
        for plugin, module in reversed(modules):  # pluggy calls the last registered first
            if module is not None:
                self._register(plugin, module)
        self._collect("imagegen_backends", Backend, "backend", self.backends)
        self._collect("imagegen_families", Family, "family", self.families)
        self._collect("imagegen_formats", Format, "format", self.formats)
        self._collect("imagegen_models", NamedModel, "model", self.models)
        self._collect("imagegen_styles", StyleDef, "style", self.styles)
        self._collect("imagegen_samplers", Sampler, "sampler", self.samplers)
        self._collect("imagegen_extensions", ExtensionDef, "extension", self.extensions)
        self._collect("imagegen_upscalers", UpscalerDef, "upscaler", self.upscalers)
        self._collect("imagegen_stores", StoreDef, "store", self.stores)
        self._collect("imagegen_parameters", Parameter, "parameter", self.parameters)

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
        apps = PerPlugin(additions.scratch)
        self._manager.hook.imagegen_cli(app=apps)
        for plugin, added in apps.copies:
            made: list[tuple[list[str], typer.Typer]] = []
            if plugin.status == "ok":
                with contained(plugin, "in imagegen_cli", lambda error: _raised("imagegen_cli", error, plugin)):  # noqa: B023 - called at once
                    made = [*additions.parts(added)]
            additions.merge(plugin, made, app, owners)
            if added.registered_callback:
                plugin.broke("it sets the callback of the whole command line, which is imagegen's own", plugin.update)

    def add_routes(self, app: APIRouter) -> None:
        """Let the plugins add their routes to the server. If a plugin's hook raises, none of its routes are added."""
        from fastapi import APIRouter

        worked = {plugin.name for plugin in self.plugins if plugin.status == "ok"}
        routers = PerPlugin(lambda: APIRouter(route_class=app.route_class))
        self._manager.hook.imagegen_routes(app=routers)
        for plugin, added in routers.copies:
            if plugin.status == "ok":
                app.include_router(added)
            elif plugin.name in worked:
                _log.warning("The plugin %s adds no routes: %s; %s", plugin.name, plugin.cause, plugin.mend)

    @cached_property
    def hooks(self) -> JobHooks:
        """The plugins' hooks around jobs."""
        from imagegen_core.plugins.job_hooks import JobHooks

        return JobHooks(self._manager, self.parameters.values())

    def _refuse_if_not_ok(self, noun: str, name: str) -> None:
        """Raise an error if `name` is a broken or disabled plugin."""
        for plugin in self.plugins:
            if name in (plugin.name, plugin.distribution) and plugin.status != "ok":
                raise PluginError(
                    f"{noun} '{name}' is not available: its plugin {plugin.distribution} {plugin.version} is "
                    f"{plugin.status}, {plugin.cause}; {plugin.mend}"
                )

    def _register(self, plugin: Plugin, module: ModuleType) -> None:
        implementations = _Implementations()
        with contained(plugin, "when its hooks are looked for", lambda error: _hook_failure(error, plugin)):
            for name, function in marked(module).items():
                guard = self._guard(plugin, hook_of(name, function), function)
                setattr(implementations, name, guard.implementation())
            self._manager.register(implementations, name=plugin.name)
            if unknown := unknown_hooks(self._manager, implementations):
                plugin.broke(
                    f"it implements {unknown[0]}, which this imagegen-core does not know",
                    f"update imagegen-core, or {plugin.distribution}",
                )
        if plugin.status != "ok" and self._manager.has_plugin(plugin.name):
            self._manager.unregister(name=plugin.name)

    def _guard(self, plugin: Plugin, hook: str, function: Callable[..., Any]) -> Guard:
        if hook in hookspecs.JOB_HOOKS:
            from imagegen_core.plugins.job_hooks import guard_of

            return guard_of(plugin, hook, function)
        return OfferGuard(plugin, hook, function, self._owners)

    def _collect(self, hook: str, kind: type[Offer], noun: str, into: dict[str, Offer]) -> None:
        """Ask all plugins for one kind of offers."""
        for offer in [offer for offers in getattr(self._manager.hook, hook)() for offer in offers]:
            plugin = self._owners.of(offer)
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


class _Implementations:
    """A plugin's guarded functions, for pluggy."""


def _raised(hook: str, error: BaseException, plugin: Plugin) -> tuple[str, str]:
    return f"{hook} raised {in_words(error)}", plugin.update


def _hook_failure(error: BaseException, plugin: Plugin) -> tuple[str, str]:
    if isinstance(error, pluggy.PluginValidationError):
        return f"a hook has the wrong signature: {' '.join(str(error).split())}", plugin.update
    return f"looking for its hooks raised {in_words(error)}", plugin.update


def _wrong_field(offer: Offer) -> str | None:
    """Return the first field of a description with a wrong type or value, in words."""
    if isinstance(offer, Parameter):
        return offer.fault()
    for field in fields(offer):
        value, kind = getattr(offer, field.name), _KINDS.get(str(field.type))
        if kind and not isinstance(value, kind):
            return f"{field.name} is {reprlib.repr(value)}, where {field.type} belongs"
    if isinstance(offer, Backend) and (needed := [field for field in ("prompt", "seed") if field in offer.without]):
        return f"without names {needed[0]}, which every backend supports"
    return offer.fault() if isinstance(offer, Family) else None
