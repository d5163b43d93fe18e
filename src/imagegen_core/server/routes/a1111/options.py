"""A1111's options: each caller sets its own."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from imagegen_core.server.json_bodies import JsonRoute
from imagegen_core.server.routes.a1111.callers import options_with, told_options
from imagegen_core.server.studio import Caller, SharedStudio

router = APIRouter(route_class=JsonRoute)


@router.get("/options")
async def get_options(studio: SharedStudio, caller: Caller) -> dict[str, Any]:
    """Tell the options in force for this caller; posted back, they change nothing."""
    return told_options(studio, caller)


@router.post("/options")
async def set_options(given: dict[str, Any], studio: SharedStudio, caller: Caller) -> None:
    """Set options for this caller's pictures; a checkpoint is loaded first."""
    options = options_with(studio, caller, given)
    if options.mode is not None:
        await studio.model.bring(studio.model.modes.find(options.mode))
    studio.options.set(caller, options)
