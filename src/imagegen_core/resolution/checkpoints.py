"""Resolve the configuration to the checkpoint of a backend's worker."""

from __future__ import annotations

import logging
from pathlib import Path

from imagegen_core.backend import Backend
from imagegen_core.description import PLAIN_FORMATS
from imagegen_core.errors import ModelLoadError, ModelNotFoundError
from imagegen_core.family import Family
from imagegen_core.models.inspect import architecture, recognize
from imagegen_core.models.locate import locate
from imagegen_core.models.named import NamedModel, fallback_model
from imagegen_core.plugins.registry import Registry
from imagegen_core.resolution.backends import backends_for, how_to_draw
from imagegen_core.settings import Settings

logger = logging.getLogger(__name__)


def resolve_checkpoint(settings: Settings, backend: Backend, registry: Registry) -> Path:
    """Return the configured checkpoint, or the fallback model if none is configured.

    Raises:
        ModelNotFoundError: The configured checkpoint does not exist, or none is configured and no plugin's model fits.
        ModelLoadError: `backend` does not draw with such a checkpoint; the message names a backend that does.
    """
    variable = f"{backend.environment_prefix}_MODEL"
    if settings.model is not None:
        path = locate(settings.model, settings.model_root, registry.models)
        _check_fits(path, backend, registry, settings)
        return path
    fallbacks = (model for model in registry.models.values() if model.fallback)
    model = fallback_model(model for model in fallbacks if _fits(backend, model, registry))
    if model is None:
        raise ModelNotFoundError(
            f"No checkpoint is configured for backend '{backend.name}': set {variable} or MODEL to a path, "
            "or to a name below MODEL_ROOT"
        )
    logger.warning(
        "No checkpoint configured: the %s model draws (set %s or --model for your own)", model.name, variable
    )
    return model.path


def checkpoint_family(settings: Settings, backend: Backend, registry: Registry) -> Family:
    """Return the family of the configured checkpoint, for a backend with a worker for each family.

    Raises:
        ModelNotFoundError: See `resolve_checkpoint`.
        ModelLoadError: See `resolve_checkpoint`.
    """
    return registry.families[architecture(resolve_checkpoint(settings, backend, registry), registry)]


def _fits(backend: Backend, model: NamedModel, registry: Registry) -> bool:
    try:
        return backend.draws(*recognize(model.path, registry))
    except ModelLoadError:  # its family is another plugin's, which is not installed
        return False


def _check_fits(path: Path, backend: Backend, registry: Registry, settings: Settings) -> None:
    wanted = recognize(path, registry)
    if backend.draws(*wanted):
        return
    right = backends_for(registry, settings, wanted)
    advice = (
        f"its worker is {right[0].worker.replace(':', '.')}: set IMAGEGEN_BACKEND={right[0].name}"
        if right
        else how_to_draw(registry, wanted)
    )
    kind = f"of the family {wanted.family}" if wanted.format in PLAIN_FORMATS else f"in the format {wanted.format}"
    raise ModelLoadError(f"{path} is a checkpoint {kind}, which backend '{backend.name}' does not load; {advice}")
