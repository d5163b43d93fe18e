"""Choose the backend: the configured one, USE_SDXL's, the preferred one for the checkpoint, or the preferred of all."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from pathlib import Path

from imagegen_core.backend import Backend
from imagegen_core.description import FOLDER
from imagegen_core.errors import BackendNotFoundError
from imagegen_core.models import hints
from imagegen_core.models.inspect import Recognized, recognize
from imagegen_core.models.locate import locate
from imagegen_core.models.named import fallback_model
from imagegen_core.plugins.registry import Registry
from imagegen_core.settings import Settings
from imagegen_core.worker import Worker

logger = logging.getLogger(__name__)


def select_backend(registry: Registry, settings: Settings) -> Backend:
    """Choose by `settings.backend`, then `settings.use_sdxl`, then the checkpoint, then the installed backends.

    If several fit, the first of `preferred` is chosen.

    Raises:
        BackendNotFoundError: No installed backend fits; the message says what to install.
        PluginError: The configured backend belongs to a plugin that is broken or disabled.
        ModelNotFoundError: The configured checkpoint does not exist.
        ModelLoadError: The configured checkpoint is damaged, or of an undeclared family.
    """
    if settings.backend:
        return registry.backend(settings.backend)
    if absent := [name for name in settings.backends if name not in registry.backends]:
        logger.warning(
            "%s names %s, which is not installed: %s", settings.source("backends"), absent[0], registry.installed()
        )
    if settings.use_sdxl:
        wanted = Recognized(FOLDER, hints.USE_SDXL[0])
        return _for_checkpoint(registry, settings, wanted, f"{settings.source('use_sdxl')} asks for it")
    if settings.model:
        return _for_path(registry, settings, locate(settings.model, settings.model_root, registry.models))
    backends = list(registry.backends.values())
    configured = [backend for backend in backends if settings.for_backend(backend.environment_prefix).model]
    if configured:
        first, *others = preferred(registry, settings, configured)
        if others and not settings.backends:
            named = ", ".join(f"{backend.environment_prefix}_MODEL" for backend in (first, *others))
            logger.warning("%s are set: the first counts; set IMAGEGEN_BACKEND or IMAGEGEN_BACKENDS to choose", named)
        return first
    if model := fallback_model(registry.models.values()):
        return _for_path(registry, settings, model.path)
    if not backends:
        raise BackendNotFoundError(hints.NO_BACKEND)
    return preferred(registry, settings, backends)[0]


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


def backends_for(registry: Registry, settings: Settings, wanted: Recognized) -> list[Backend]:
    """List the installed backends for a checkpoint, the preferred one first."""
    fitting = [backend for backend in registry.backends.values() if backend.draws(*wanted)]
    return preferred(registry, settings, fitting, wanted.family)


def preferred(
    registry: Registry, settings: Settings, backends: Iterable[Backend], family: str | None = None
) -> list[Backend]:
    """Sort backends by preference.

    The order of `settings.backends` counts first, then the priority. Of equals, a backend of the plugin that declares
    the family comes first, and then the first by name. So another installed plugin changes no picture by itself.

    Args:
        registry: The plugins.
        settings: The configuration.
        backends: The backends to sort.
        family: The checkpoint's family, if known.
    """
    order = {name: place for place, name in enumerate(settings.backends)}
    home = registry.owner(f"family {family}")

    def rank(backend: Backend) -> tuple[int, int, bool, str]:
        is_at_home = home is not None and registry.owner(f"backend {backend.name}") is home
        return (order.get(backend.name, len(order)), -backend.priority, not is_at_home, backend.name)

    return sorted(backends, key=rank)


def _for_path(registry: Registry, settings: Settings, path: Path) -> Backend:
    return _for_checkpoint(registry, settings, recognize(path, registry), f"{path} is such a checkpoint")


def _for_checkpoint(registry: Registry, settings: Settings, wanted: Recognized, reason: str) -> Backend:
    if fitting := backends_for(registry, settings, wanted):
        return fitting[0]
    raise BackendNotFoundError(
        f"No installed backend draws {wanted.family or wanted.format} ({reason}): {registry.installed()}; "
        f"{how_to_draw(registry, wanted)}"
    )


def how_to_draw(registry: Registry, wanted: Recognized) -> str:
    """Say what to install to draw with a checkpoint: the end of a sentence."""
    if wanted.format in registry.formats:
        return registry.how_to_get(registry.formats[wanted.format].package)
    if family := registry.families.get(wanted.family or ""):
        return registry.how_to_get(family.package)
    return registry.how_to_get(dict([hints.USE_SDXL]).get(wanted.family or ""))
