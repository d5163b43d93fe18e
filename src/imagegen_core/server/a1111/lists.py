"""A1111's lists of what can be named, empty where this server has nothing of the kind.

The shapes: ``modules/api/models.py`` of A1111 1.10, and ``modules_forge/main_entry.py`` of Forge for ``sd-modules``.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from imagegen_core.resources.memory import system_memory
from imagegen_core.schedules import SCHEDULES
from imagegen_core.server.a1111.callers import mode_of
from imagegen_core.server.context import Caller, SharedContext
from imagegen_core.server.middleware.json_bodies import JsonRoute

router = APIRouter(route_class=JsonRoute)
gradio = APIRouter(route_class=JsonRoute)

_NONE = "None"


@router.get("/samplers")
async def samplers(context: SharedContext) -> list[dict[str, Any]]:
    """List the samplers that a request can name."""
    offered = context.registry.samplers.values()
    return [{"name": sampler.name, "aliases": [sampler.class_name], "options": {}} for sampler in offered]


@router.get("/schedulers")
async def schedulers() -> list[dict[str, Any]]:
    """List the noise schedules; "automatic" is the schedule that A1111 gives a sampler by itself."""
    return [
        {
            "name": schedule.name.lower().replace(" ", "_"),
            "label": schedule.name,
            "aliases": list(schedule.aliases) or None,
            "default_rho": -1,
            "need_inner_model": False,
        }
        for schedule in SCHEDULES
    ]


@router.get("/loras")
async def loras(context: SharedContext, caller: Caller) -> list[dict[str, Any]]:
    """List the styles, which ``<lora:NAME>`` names in a prompt."""
    card = context.card(mode_of(context, caller))
    return [{"name": name, "alias": name, "path": "", "metadata": {}} for name in card.styles]


@router.get("/prompt-styles")
async def prompt_styles(context: SharedContext, caller: Caller) -> list[dict[str, Any]]:
    """List the styles, which ``styles`` names, with the text that means the same in a prompt."""
    card = context.card(mode_of(context, caller))
    return [{"name": name, "prompt": f"<lora:{name}>", "negative_prompt": ""} for name in card.styles]


@router.get("/embeddings")
async def embeddings(context: SharedContext, caller: Caller) -> dict[str, dict[str, Any]]:
    """List the textual-inversion embeddings that a prompt can name, once the model is loaded."""
    card = context.card(mode_of(context, caller))
    loaded = {
        name: {"step": None, "sd_checkpoint": None, "sd_checkpoint_name": None, "shape": width, "vectors": count}
        for name, (count, width) in card.embeddings.items()
    }
    return {"loaded": loaded, "skipped": {}}


@router.get("/upscalers")
async def upscalers(context: SharedContext) -> list[dict[str, Any]]:
    """List the upscalers that ``extra-single-image`` takes."""
    names = [_NONE, *context.upscalers.names()]
    unknown = dict.fromkeys(("model_name", "model_path", "model_url"))
    return [{"name": name, **unknown, "scale": 4} for name in names]


@router.get("/sd-vae")
@router.get("/sd-modules")
async def vaes(context: SharedContext) -> list[dict[str, str]]:
    """List the configured VAE, which decodes in place of the checkpoints' own."""
    path = context.settings.vae_path
    return [] if path is None else [{"model_name": path.name, "filename": str(path)}]


@router.get("/latent-upscale-modes")
@router.get("/hypernetworks")
@router.get("/face-restorers")
@router.get("/realesrgan-models")
@router.get("/script-info")
@router.get("/extensions")
async def nothing() -> list[dict[str, Any]]:
    """Return an empty list: this server has nothing of the kind."""
    return []


@router.get("/scripts")
async def scripts() -> dict[str, list[str]]:
    """Return two empty lists: this server has no scripts."""
    return {"txt2img": [], "img2img": []}


@router.get("/cmd-flags")
async def cmd_flags() -> dict[str, Any]:
    """Tell the flags that A1111 would have been started with."""
    return {"api": True, "listen": False}


@router.get("/memory")
async def memory(context: SharedContext) -> dict[str, Any]:
    """Tell this machine's memory and the first GPU's, in bytes."""
    total, free = system_memory()
    memories = [memory for host in context.mode_manager.models.hosts() for memory in host.memories]
    gpu = next((one for one in memories if one.device.startswith("cuda")), None)
    cuda: dict[str, Any] = {"error": "unavailable"}
    if gpu is not None:
        cuda = {"system": {"free": gpu.free, "used": gpu.total - gpu.free, "total": gpu.total}}
    return {"ram": {"free": free, "used": total - free, "total": total}, "cuda": cuda}


@gradio.get("/queue/status")
async def queue_status(context: SharedContext) -> dict[str, Any]:
    """Tell the queue as gradio does beneath A1111's page; clients ask here whether a server is there."""
    report = context.mode_manager.models.report()
    return {
        "msg": "estimation",
        "rank": None,
        "queue_size": report.waiting if report else 0,
        "avg_event_process_time": None,
        "avg_event_concurrent_process_time": None,
        "rank_eta": None,
        "queue_eta": 0,
    }
