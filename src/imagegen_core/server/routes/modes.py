"""The modes and their models: list, load, unload and switch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict

from imagegen_core.redaction import redact
from imagegen_core.server.access import require_admin
from imagegen_core.server.context import SharedContext
from imagegen_core.server.errors import ConflictError
from imagegen_core.server.middleware.json_bodies import JsonRoute

if TYPE_CHECKING:
    from imagegen_core.hosting.cache_entry import CacheEntryReport
    from imagegen_core.hosting.model_host import HostReport
    from imagegen_core.memory_plan import MemoryPlan
    from imagegen_core.modes import Mode
    from imagegen_core.server.context import ServerContext
    from imagegen_core.worker import DeviceMemory

router = APIRouter(route_class=JsonRoute, prefix="/api", tags=["modes"])

_ADMIN = [Depends(require_admin)]

_GB = 1e9
_MEMORY = ("device", "total_gb", "used_gb", "available_gb", "usage_percent")


class ModeBody(BaseModel):
    """The name of a mode.

    Attributes:
        mode: The mode's name.
    """

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"mode": "default"}]})

    mode: str


class UnloadBody(BaseModel):
    """The optional name of a mode.

    Attributes:
        mode: The mode's name; None is the default mode.
    """

    model_config = ConfigDict(extra="forbid")

    mode: str | None = None


@router.get("/modes")
async def modes(context: SharedContext) -> dict[str, Any]:
    """List the modes, the state of their models, and any error in their configuration."""
    model = context.mode_manager
    states = {entry.key: entry.state for host in model.models.hosts() for entry in host.entries}
    return {
        "default_mode": model.modes.default,
        "modes": {
            name: _shown(mode) | {"state": states.get(mode.key, "absent")} for name, mode in model.modes.modes.items()
        },
        "error": redact(model.error) or None,
    }


@router.post("/modes/switch", dependencies=_ADMIN)
async def switch(body: ModeBody, context: SharedContext) -> dict[str, Any]:
    """Make a mode the default, once its model is loaded; until then the old default serves."""
    loaded = context.mode_manager.models.card(context.mode_manager.modes.find(body.mode)) is not None
    before = await context.mode_manager.switch(body.mode)
    return {
        "status": "already_loaded" if loaded and before == body.mode else "switched",
        "mode": body.mode,
        "from_mode": before,
        "to_mode": body.mode,
        "message": f"Mode {body.mode} draws where a request names none",
    }


@router.post("/modes/reload", dependencies=_ADMIN)
async def reload(context: SharedContext) -> dict[str, Any]:
    """Reload the modes' configuration; after an error, the old modes stay."""
    fresh = await context.mode_manager.changing(context.mode_manager.reload)
    return {
        "status": "reloaded",
        "modes_count": len(fresh.modes),
        "modes": list(fresh.modes),
        "default_mode": fresh.default,
    }


@router.get("/models/status")
async def models_status(context: SharedContext) -> dict[str, Any]:
    """Return the default mode, the queue's length, and the models in memory."""
    hosts, report = context.mode_manager.models.hosts(), context.mode_manager.models.report()
    return {
        "current_mode": context.mode_manager.modes.default,
        "queue_size": report.waiting if report else 0,
        "loads": sum(host.loads for host in hosts),
        "unloads": sum(host.unloads for host in hosts),
        "vram": _memory(context),
    }


@router.post("/models/load", dependencies=_ADMIN)
async def load(body: ModeBody, context: SharedContext) -> dict[str, Any]:
    """Load a mode's model; respond when it is loaded."""
    await context.mode_manager.load(context.mode_manager.modes.find(body.mode))
    return {"status": "loaded", "mode": body.mode}


@router.post("/models/unload", dependencies=_ADMIN)
async def unload(context: SharedContext, body: UnloadBody | None = None) -> dict[str, Any]:
    """Unload a mode's model; the next request for it loads it again."""
    mode = context.mode_manager.modes.find(None if body is None else body.mode)
    if not await context.mode_manager.changing(context.mode_manager.models.unload, mode):
        raise ConflictError(
            f"The model of mode {mode.name} is not loaded, has work in hand, or is not this server's: ask again later"
        )
    return {"status": "unloaded", "mode": mode.name}


@router.get("/vram")
async def vram(context: SharedContext) -> dict[str, Any]:
    """Return the device's memory, and each model's share."""
    return _memory(context)


def _shown(mode: Mode) -> dict[str, Any]:
    table = mode.table
    return {
        "model": mode.settings.model,
        "loras": [
            {"path": str(given.path), "strength": use.strength, "adapter_name": use.adapter_name}
            for given, use in zip(table.loras, mode.loras, strict=True)
        ],
        "default_size": table.default_size,
        "default_steps": table.default_steps,
        "default_guidance": table.default_guidance,
        "scheduler": table.scheduler,
        "refiner": table.refiner,
        "switch_at": table.switch_at,
        "parameters": dict(table.parameters),
        "description": table.description or table.metadata.get("description"),
        "metadata": dict(table.metadata),
    }


def _memory(context: ServerContext) -> dict[str, Any]:
    """Report memory in the format of the first servers with these routes; null if no worker can measure it."""
    hosts, by_key = context.mode_manager.models.hosts(), context.mode_manager.modes.names_by_key()
    devices = [{"host": host.name or None, **_shown_memory(memory)} for host in hosts for memory in host.memories]
    models = [_resident(host, entry, by_key.get(entry.key, [])) for host in hosts for entry in host.entries]
    budget = next((host.budget for host in hosts if host.budget is not None), None)
    return {
        **({name: devices[0][name] for name in _MEMORY} if devices else dict.fromkeys(_MEMORY)),
        "devices": devices,
        "budget_gb": budget and budget / _GB,
        "models_loaded": sum(model["state"] == "ready" for model in models),
        "models": models,
    }


def _resident(host: HostReport, entry: CacheEntryReport, modes: list[str]) -> dict[str, Any]:
    return {
        "name": ", ".join(modes) or entry.key.model,
        "modes": modes,
        "model_path": entry.key.model,
        "host": host.name or None,
        "state": entry.state,
        "vram_gb": entry.size / _GB,
        "in_hand": entry.open,
        "load_seconds": round(entry.seconds, 3),
        "memory": _shown_plan(card.memory) if (card := host.cards.get(entry.key)) and card.memory else None,
    }


def _shown_plan(plan: MemoryPlan) -> dict[str, Any]:
    return {
        "total_gb": plan.total / _GB,
        "storage": plan.storage,
        "offloaded": list(plan.offloaded),
        "streamed": plan.streamed,
        "tile": plan.tile,
        "weights_gb": plan.weights / _GB,
        "peak_gb": plan.peak / _GB,
        "fits": plan.fits,
    }


def _shown_memory(memory: DeviceMemory) -> dict[str, Any]:
    used = memory.total - memory.free
    figures = (memory.total / _GB, used / _GB, memory.free / _GB, 100 * used / memory.total)
    return dict(zip(_MEMORY, (memory.device, *figures), strict=True))
