"""A1111's API beside drawing: what there is to choose from, options."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from imagegen_core.resources.memory import system_memory
from imagegen_core.schedules import SCHEDULES
from imagegen_core.server.studio import SharedStudio

router = APIRouter(prefix="/sdapi/v1", tags=["A1111"])

_NONE = "None"


@router.get("/sd-models")
async def sd_models(studio: SharedStudio) -> list[dict[str, Any]]:
    """The modes as checkpoints, or the only model that draws."""
    modes = studio.model.modes
    if not modes.configured:
        card = studio.card()
        return [_checkpoint(card.title, card.name, str(card.path or ""))]
    return [_checkpoint(mode.name, mode.name, mode.settings.model or "") for mode in modes.modes.values()]


@router.get("/samplers")
async def samplers(studio: SharedStudio) -> list[dict[str, Any]]:
    """The samplers a request can name."""
    offered = studio.registry.samplers.values()
    return [{"name": one.name, "aliases": [one.class_name], "options": {}} for one in offered]


@router.get("/schedulers")
async def schedulers() -> list[dict[str, Any]]:
    """The noise schedules; "automatic" is the one that A1111 gives a sampler by itself."""
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
async def loras(studio: SharedStudio) -> list[dict[str, Any]]:
    """The styles, which ``<lora:NAME>`` names in a prompt."""
    card = studio.card(studio.model.modes.find(studio.options.mode))
    return [{"name": name, "alias": name, "path": "", "metadata": {}} for name in card.styles]


@router.get("/upscalers")
async def upscalers(studio: SharedStudio) -> list[dict[str, Any]]:
    """What enlarges pictures."""
    names = [_NONE, *studio.upscalers.names()]
    return [{"name": one, "model_name": None, "model_path": None, "model_url": None, "scale": 4} for one in names]


@router.get("/scripts")
async def scripts() -> dict[str, list[str]]:
    """There are no scripts."""
    return {"txt2img": [], "img2img": []}


@router.get("/cmd-flags")
async def cmd_flags() -> dict[str, Any]:
    """What A1111 would have been started with."""
    return {"api": True, "listen": False}


@router.get("/memory")
async def memory() -> dict[str, Any]:
    """This machine's memory in bytes."""
    total, free = system_memory()
    return {"ram": {"free": free, "used": total - free, "total": total}, "cuda": {}}


@router.get("/options")
async def get_options(studio: SharedStudio) -> dict[str, Any]:
    """The options in force."""
    mode = studio.model.modes.find(studio.options.mode)
    return {
        "samples_format": "png",
        "sd_model_checkpoint": mode.name if studio.model.modes.configured else studio.card().title,
        "sd_checkpoint_hash": "",
        "sd_vae": "Automatic",
        "CLIP_stop_at_last_layers": studio.options.clip_stop_at_last_layers,
    }


@router.post("/options")
async def set_options(given: dict[str, Any], studio: SharedStudio) -> None:
    """Set options for all of A1111's clients; a checkpoint is loaded first."""
    options = studio.options.with_overrides(given, studio.checkpoints())
    if options.mode is not None:
        await studio.model.bring(studio.model.modes.find(options.mode))
    studio.options = options


def _checkpoint(title: str, name: str, filename: str) -> dict[str, Any]:
    return {
        "title": title,
        "model_name": name,
        "hash": None,
        "sha256": None,
        "filename": filename,
        "config": None,
    }
