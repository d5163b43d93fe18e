"""Resolve the configuration to the checkpoint of a backend's worker."""

from __future__ import annotations

import logging
from pathlib import Path

from imagegen_core.backend import Backend
from imagegen_core.errors import ModelLoadError, ModelNotFoundError
from imagegen_core.models.families import how_to_get
from imagegen_core.models.inspect import architecture
from imagegen_core.models.locate import locate
from imagegen_core.models.named import fallback_model
from imagegen_core.plugins.registry import Registry
from imagegen_core.settings import Settings

logger = logging.getLogger(__name__)


def resolve_checkpoint(settings: Settings, backend: Backend, registry: Registry) -> Path:
    """Return the configured checkpoint, or the fallback model if none is configured.

    Raises:
        ModelNotFoundError: The configured checkpoint does not exist, or none is configured and no plugin's model fits.
        ModelLoadError: `backend` does not load the checkpoint's family; the message names a backend that does.
    """
    variable = f"{backend.environment_prefix}_MODEL"
    if settings.model is not None:
        path = locate(settings.model, settings.model_root, registry.models)
        _check_family(path, backend, registry)
        return path
    fallbacks = (model for model in registry.models.values() if model.fallback)
    model = fallback_model(model for model in fallbacks if architecture(model.path) in backend.architectures)
    if model is None:
        raise ModelNotFoundError(
            f"No checkpoint is configured for backend '{backend.name}': set {variable} or MODEL to a path, "
            "or to a name below MODEL_ROOT"
        )
    logger.warning(
        "No checkpoint configured: the %s model draws (set %s or --model for your own)", model.name, variable
    )
    return model.path


def _check_family(path: Path, backend: Backend, registry: Registry) -> None:
    family = architecture(path)
    if family in backend.architectures:
        return
    right = next((other for other in registry.backends.values() if family in other.architectures), None)
    advice = (
        f"its worker is {right.worker.replace(':', '.')}: set IMAGEGEN_BACKEND={right.name}"
        if right
        else how_to_get(family)
    )
    raise ModelLoadError(
        f"{path} is a checkpoint of the family {family}, which backend '{backend.name}' does not load; {advice}"
    )
