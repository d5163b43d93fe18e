"""A1111's routes for checkpoints: list, load, unload and refresh."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends

from imagegen_core.server.a1111.callers import mode_of
from imagegen_core.server.access import require_admin
from imagegen_core.server.context import Caller, SharedContext
from imagegen_core.server.errors import ConflictError
from imagegen_core.server.middleware.json_bodies import JsonRoute

router = APIRouter(route_class=JsonRoute)

_ADMIN = [Depends(require_admin)]


@router.get("/sd-models")
async def sd_models(context: SharedContext) -> list[dict[str, Any]]:
    """List the modes as checkpoints, or the only model."""
    modes = context.mode_manager.modes
    if not modes.configured:
        card = context.card()
        return [_checkpoint(card.title, card.name, str(card.path or ""))]
    return [_checkpoint(mode.name, mode.name, mode.settings.model or "") for mode in modes.modes.values()]


@router.post("/refresh-checkpoints", dependencies=_ADMIN)
async def refresh_checkpoints(context: SharedContext) -> None:
    """Reload the modes' configuration, if there is any."""
    if context.mode_manager.files():
        await context.mode_manager.changing(context.mode_manager.reload)


@router.post("/refresh-loras")
@router.post("/refresh-vae")
async def refresh_lists() -> None:
    """Do nothing: every load of a model searches for styles and the VAE."""


@router.post("/unload-checkpoint", dependencies=_ADMIN)
async def unload_checkpoint(context: SharedContext, caller: Caller) -> dict[str, Any]:
    """Unload the model of this caller's checkpoint; the next picture loads it again."""
    mode = mode_of(context, caller)
    if not await context.mode_manager.changing(context.mode_manager.models.unload, mode):
        entries = [entry for host in context.mode_manager.models.hosts() for entry in host.entries]
        if any(entry.open for entry in entries if entry.key == mode.key):
            raise ConflictError(f"The model of {mode.name} draws at the moment: ask again when it is done")
    return {}


@router.post("/reload-checkpoint", dependencies=_ADMIN)
async def reload_checkpoint(context: SharedContext, caller: Caller) -> dict[str, Any]:
    """Load the model of this caller's checkpoint; respond when it is loaded."""
    await context.mode_manager.load(mode_of(context, caller))
    return {}


def _checkpoint(title: str, name: str, filename: str) -> dict[str, Any]:
    return {
        "title": title,
        "model_name": name,
        "hash": None,
        "sha256": None,
        "filename": filename,
        "config": None,
    }
