"""A1111's options, separate for each caller."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from imagegen_core.server.a1111.callers import options_with, told_options
from imagegen_core.server.context import Caller, SharedContext
from imagegen_core.server.middleware.json_bodies import JsonRoute

router = APIRouter(route_class=JsonRoute)


@router.get("/options")
async def get_options(context: SharedContext, caller: Caller) -> dict[str, Any]:
    """Return this caller's options; a client can post them back without effect."""
    return told_options(context, caller)


@router.post("/options")
async def set_options(given: dict[str, Any], context: SharedContext, caller: Caller) -> None:
    """Set options for this caller's pictures; a new checkpoint is loaded first."""
    options = options_with(context, caller, given)
    if options.mode is not None:
        await context.mode_manager.load(context.mode_manager.modes.find(options.mode))
    context.options.set(caller, options)
