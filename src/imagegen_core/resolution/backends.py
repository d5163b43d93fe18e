"""Choose the backend: the configured one, USE_SDXL's, the one for the checkpoint, or the only one installed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from imagegen_core.backend import Backend
from imagegen_core.errors import BackendNotFoundError
from imagegen_core.models.families import how_to_get
from imagegen_core.models.inspect import architecture
from imagegen_core.models.locate import locate
from imagegen_core.models.named import fallback_model
from imagegen_core.plugins.registry import Registry
from imagegen_core.settings import Settings
from imagegen_core.worker import Worker


def select_backend(registry: Registry, settings: Settings) -> Backend:
    """Choose by `settings.backend`, then `settings.use_sdxl`, then the checkpoint, then the installed backends.

    Raises:
        BackendNotFoundError: No installed backend fits, or several do; the message names them and the remedy.
        PluginError: The configured backend belongs to a plugin that is broken or disabled.
        ModelNotFoundError: The configured checkpoint does not exist.
        ModelLoadError: The configured checkpoint is damaged, or of an unknown family.
    """
    if settings.backend:
        return registry.backend(settings.backend)
    if settings.use_sdxl:
        return _for_architecture(registry, "sdxl", f"{settings.source('use_sdxl')} asks for it")
    if settings.model:
        return _for_checkpoint(registry, locate(settings.model, settings.model_root, registry.models))
    backends = list(registry.backends.values())
    configured = [backend for backend in backends if settings.for_backend(backend.environment_prefix).model]
    if configured:
        return _only(configured, "each has a checkpoint configured")
    if model := fallback_model(registry.models.values()):
        return _for_checkpoint(registry, model.path)
    return _only(backends, "no checkpoint is configured to tell by")


def backend_of(worker: Worker, registry: Registry) -> Backend | None:
    """Return the backend of a loaded worker; None if no installed plugin describes it."""
    described = getattr(worker, "backend", None)
    if isinstance(described, Backend):
        return described
    classes = {id(kind) for kind in type(worker).__mro__}
    loaded = (
        (backend, getattr(sys.modules.get(module), name, None))
        for backend in registry.backends.values()
        for module, _, name in [backend.worker.partition(":")]
    )
    return next((backend for backend, kind in loaded if id(kind) in classes), None)


def backends_for(registry: Registry, family: str) -> list[Backend]:
    """List the installed backends for a checkpoint family."""
    return [backend for backend in registry.backends.values() if family in backend.architectures]


def _for_checkpoint(registry: Registry, path: Path) -> Backend:
    family = architecture(path)
    return _for_architecture(registry, family, f"{path} is such a checkpoint")


def _for_architecture(registry: Registry, family: str, reason: str) -> Backend:
    fitting = backends_for(registry, family)
    if not fitting:
        raise BackendNotFoundError(
            f"No installed backend draws {family} ({reason}): {registry.installed()}; {how_to_get(family)}"
        )
    return _only(fitting, reason)


def _only(backends: Sequence[Backend], reason: str) -> Backend:
    match backends:
        case [backend]:
            return backend
        case []:
            raise BackendNotFoundError("No backend is installed: pip install imagegen-sdxl or imagegen-sd15")
        case _:
            names = ", ".join(sorted(backend.name for backend in backends))
            raise BackendNotFoundError(
                f"Several backends fit, {names} ({reason}): set IMAGEGEN_BACKEND or --backend to one of them"
            )
