"""The models of OpenAI's API: the modes, or the only model, and their other names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter

from imagegen_core.errors import SettingsError
from imagegen_core.modes import Mode
from imagegen_core.resolution.parameters import parameters_of
from imagegen_core.server.context import ServerContext, SharedContext
from imagegen_core.server.errors import NotFoundError
from imagegen_core.server.middleware.json_bodies import JsonRoute

router = APIRouter(route_class=JsonRoute)

_OWNER = "imagegen"


@router.get("/models")
async def models(context: SharedContext) -> dict[str, Any]:
    """List the valid model names: the modes, or the only model, and then the aliases."""
    return {"object": "list", "data": [_model(name, context) for name in [*_names(context), *_aliases(context)]]}


@router.get("/models/{model:path}")
async def model(model: str, context: SharedContext) -> dict[str, Any]:
    """Return the model with this name."""
    return _model(model, context)


def mode_of(model: str | None, context: ServerContext) -> Mode:
    """Find the mode for a model's name or alias.

    Raises:
        NotFoundError: There is no model with that name.
    """
    modes, names, aliases = context.mode_manager.modes, _names(context), _aliases(context)
    if model is not None and model not in names:
        if model not in aliases:
            known = " or ".join([*names, *aliases])
            raise NotFoundError(
                f"No model {model[:64]!r} is served here: ask for {known}, or leave it out; the setting "
                "IMAGEGEN_MODEL_ALIASES adds a name"
            )
        model = aliases[model]
    return modes.find(model if modes.configured else None)


def check_aliases(context: ServerContext) -> None:
    """Check the aliases when the server starts. A single model's name is not known before its load.

    Raises:
        SettingsError: An alias is for a mode that does not exist.
    """
    modes, settings = context.mode_manager.modes, context.settings
    for alias in settings.model_aliases if modes.configured else ():
        mode = alias.partition("=")[2].strip()
        if mode and mode not in modes.modes:
            raise SettingsError(
                f"Invalid {settings.source('model_aliases')}: the alias {alias!r} is for no mode; expected one of "
                f"{', '.join(modes.modes)}"
            )


def _names(context: ServerContext) -> list[str]:
    modes = context.mode_manager.modes
    return list(modes.modes) if modes.configured else [context.card().name]


def _aliases(context: ServerContext) -> Mapping[str, str]:
    """Return the models by their aliases. A model's own name has precedence, and a missing model has no alias."""
    names = _names(context)
    pairs = [alias.partition("=") for alias in context.settings.model_aliases]
    default = context.mode_manager.modes.find(None).name if context.mode_manager.modes.configured else names[0]
    found = {alias.strip(): name.strip() or default for alias, _, name in pairs}
    return {alias: name for alias, name in found.items() if alias not in names and name in names}


def _model(name: str, context: ServerContext) -> dict[str, Any]:
    """Describe a model: OpenAI's fields, then its own name, its backend and the fields of its requests."""
    mode = mode_of(name, context)
    backend = context.backend(mode)
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": _OWNER,
        "root": _aliases(context).get(name, name),
        "backend": backend and backend.name,
        "fields": context.fields(mode),
        "parameters": {
            parameter.name: parameter.schema
            for parameter in parameters_of(context.registry.parameters.values(), backend)
        },
    }
