"""A1111's lists of available names; a list is empty if this server lacks the feature.

Sources: ``modules/api/models.py`` of A1111 1.10, and ``modules_forge/main_entry.py`` of Forge for ``sd-modules``.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from imagegen_core.resources.memory import system_memory
from imagegen_core.schedules import SCHEDULES
from imagegen_core.server.a1111.callers import mode_of
from imagegen_core.server.a1111.txt2img import LATENTS
from imagegen_core.server.context import Caller, SharedContext
from imagegen_core.server.middleware.json_bodies import JsonRoute

router = APIRouter(route_class=JsonRoute)
gradio = APIRouter(route_class=JsonRoute)

_NONE = "None"


@router.get("/samplers")
async def samplers(context: SharedContext) -> list[dict[str, Any]]:
    """List the samplers for requests."""
    offered = context.registry.samplers.values()
    return [{"name": sampler.name, "aliases": [sampler.class_name], "options": {}} for sampler in offered]


@router.get("/schedulers")
async def schedulers() -> list[dict[str, Any]]:
    """List the noise schedules; "automatic" is the default schedule of each A1111 sampler."""
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
    """List the styles; ``<lora:NAME>`` in a prompt selects a style."""
    card = context.card(mode_of(context, caller))
    return [{"name": name, "alias": name, "path": "", "metadata": {}} for name in card.styles]


@router.get("/prompt-styles")
async def prompt_styles(context: SharedContext, caller: Caller) -> list[dict[str, Any]]:
    """List the values of ``styles``, each with its equivalent prompt text."""
    card = context.card(mode_of(context, caller))
    return [{"name": name, "prompt": f"<lora:{name}>", "negative_prompt": ""} for name in card.styles]


@router.get("/embeddings")
async def embeddings(context: SharedContext, caller: Caller) -> dict[str, dict[str, Any]]:
    """List the textual-inversion embeddings for prompts, once the model is loaded."""
    card = context.card(mode_of(context, caller))
    loaded = {
        name: {"step": None, "sd_checkpoint": None, "sd_checkpoint_name": None, "shape": width, "vectors": count}
        for name, (count, width) in card.embeddings.items()
    }
    return {"loaded": loaded, "skipped": {}}


@router.get("/upscalers")
async def upscalers(context: SharedContext) -> list[dict[str, Any]]:
    """List the upscalers for ``extra-single-image``."""
    names = [_NONE, *context.upscalers.names()]
    unknown = dict.fromkeys(("model_name", "model_path", "model_url"))
    return [{"name": name, **unknown, "scale": 4} for name in names]


@router.get("/sd-vae")
@router.get("/sd-modules")
async def vaes(context: SharedContext) -> list[dict[str, str]]:
    """List the configured VAE, used instead of each checkpoint's own."""
    path = context.settings.vae_path
    return [] if path is None else [{"model_name": path.name, "filename": str(path)}]


@router.get("/latent-upscale-modes")
async def latent_upscale_modes() -> list[dict[str, str]]:
    """List the enlargements of latents for hires."""
    return [{"name": name} for name in LATENTS]


@router.get("/hypernetworks")
@router.get("/face-restorers")
@router.get("/realesrgan-models")
@router.get("/script-info")
@router.get("/extensions")
async def nothing() -> list[dict[str, Any]]:
    """Return an empty list: this server lacks the feature."""
    return []


@router.get("/scripts")
async def scripts() -> dict[str, list[str]]:
    """Return two empty lists: this server has no scripts."""
    return {"txt2img": [], "img2img": []}


@router.get("/cmd-flags")
async def cmd_flags() -> dict[str, Any]:
    """Return the A1111 command-line flags that match this server."""
    return {"api": True, "listen": False}


@router.get("/memory")
async def memory(context: SharedContext) -> dict[str, Any]:
    """Return the memory of this machine and of the first GPU, in bytes."""
    total, free = system_memory()
    memories = [memory for host in context.mode_manager.models.hosts() for memory in host.memories]
    gpu = next((memory for memory in memories if memory.device.startswith("cuda")), None)
    cuda: dict[str, Any] = {"error": "unavailable"}
    if gpu is not None:
        cuda = {"system": {"free": gpu.free, "used": gpu.total - gpu.free, "total": gpu.total}}
    return {"ram": {"free": free, "used": total - free, "total": total}, "cuda": cuda}


@gradio.get("/queue/status")
async def queue_status(context: SharedContext) -> dict[str, Any]:
    """Return the queue's length in gradio's format; clients use this route to detect a server."""
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
