"""A1111's ``progress``, ``interrupt`` and ``skip`` for the caller's pictures in progress."""

from __future__ import annotations

import base64
from typing import Any

from fastapi import APIRouter

from imagegen_core.server.context import Caller, SharedContext
from imagegen_core.server.middleware.json_bodies import JsonRoute

router = APIRouter(route_class=JsonRoute)


@router.post("/interrupt")
async def interrupt(context: SharedContext, caller: Caller) -> dict[str, Any]:
    """Cancel this caller's pictures within one step."""
    for ticket in context.runs.of(caller):
        ticket.cancel()
    return {}


@router.post("/skip")
async def skip(context: SharedContext, caller: Caller) -> None:
    """Cancel this caller's current picture, and continue with the next."""
    context.runs.skip(caller)


@router.get("/progress")
async def progress(context: SharedContext, caller: Caller, skip_current_image: bool = False) -> dict[str, Any]:
    """Return the progress of this caller's pictures, with a preview of the current picture."""
    now = context.runs.progress(caller)
    current = now.current
    preview = None if current is None or skip_current_image else current.preview
    return {
        "progress": now.done,
        "eta_relative": now.seconds_left,
        "state": {
            "skipped": False,
            "interrupted": False,
            "stopping_generation": False,
            "job": now.job,
            "job_count": now.count,
            "job_timestamp": "0",
            "job_no": now.finished,
            "sampling_step": current.step if current else 0,
            "sampling_steps": current.steps if current else 0,
        },
        "current_image": None if preview is None else base64.b64encode(preview).decode(),
        "textinfo": None,
    }
