"""``/health``, ``/ready``, ``/metrics`` and the page at ``/``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from imagegen_core.distributions import installed_version
from imagegen_core.redaction import redact
from imagegen_core.server.context import SharedContext
from imagegen_core.server.middleware.json_bodies import JsonRoute

router = APIRouter(route_class=JsonRoute, tags=["state"])

PAGE = Path(__file__).parent.parent / "page"


@router.get("/health")
async def health(request: Request, context: SharedContext) -> dict[str, Any]:
    """Report that the server runs; trusted callers also see its engine's state."""
    model = context.mode_manager
    if not request.state.is_trusted:
        return {"status": "ok", "model": model.state}
    report = model.models.report()
    models = [
        {
            "host": host.name or None,
            "model": entry.key.model,
            "state": entry.state,
            "bytes": entry.size,
            "numerics": asdict(card.numerics) if (card := host.cards.get(entry.key)) and card.numerics else None,
        }
        for host in model.models.hosts()
        for entry in host.entries
    ]
    return {
        "status": "ok",
        "version": installed_version("imagegen-core") or "unknown",
        "model": model.state,
        "engine": report and asdict(report),
        "mode": model.modes.default,
        "models": models,
    }


@router.get("/ready", responses={503: {"description": "Not ready"}})
async def ready(request: Request, context: SharedContext) -> JSONResponse:
    """Answer 200 if the model is loaded, its engines work and the queue has room, otherwise 503.

    If the server has keys, only callers with a key see the cause.
    """
    state: str = context.mode_manager.state
    detail = context.mode_manager.failure
    report, hosts = context.mode_manager.models.report(), context.mode_manager.models.hosts()
    if state == "ready" and not report:
        state, detail = "loading", "no replica draws at the moment"
    elif state == "ready" and all(host.engine and host.engine.broken for host in hosts):
        state, detail = "broken", "an engine broke: the log says why"
    elif state == "ready" and report and report.waiting >= context.settings.queue_max:
        state, detail = "full", "the queue is full"
    body = {"status": state} | ({"detail": redact(detail)} if request.state.is_trusted else {})
    return JSONResponse(body, 200 if state == "ready" else 503)


@router.get("/metrics", response_class=Response)
def metrics(context: SharedContext) -> Response:
    """Return the metrics for Prometheus."""
    return Response(context.metrics.text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """Return the web page."""
    return FileResponse(PAGE / "index.html")
