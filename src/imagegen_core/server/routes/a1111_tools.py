"""A1111's API beside drawing: what there is to choose from, options, upscaling, a picture's text."""

from __future__ import annotations

import base64
import binascii
import math
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import psutil
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from imagegen_core.errors import InvalidRequestError
from imagegen_core.images.reading import read_picture, text_of
from imagegen_core.images.recipe import A1111_CHUNK
from imagegen_core.schedules import SCHEDULES
from imagegen_core.server.json_bodies import JsonRoute
from imagegen_core.server.studio import SharedStudio

if TYPE_CHECKING:
    from imagegen_core.server.studio import Studio

router = APIRouter(route_class=JsonRoute, prefix="/sdapi/v1", tags=["A1111"])

_NONE = "None"
_LARGEST_FACTOR = 8


class ExtraBody(BaseModel):
    """A1111's fields of "Extras"; what asks for more than upscaling is refused."""

    model_config = ConfigDict(extra="allow")

    image: str
    resize_mode: int = Field(default=0, ge=0, le=1)
    upscaling_resize: float = Field(default=2, ge=1, le=_LARGEST_FACTOR)
    upscaling_resize_w: int = Field(default=512, ge=1, le=16384)
    upscaling_resize_h: int = Field(default=512, ge=1, le=16384)
    upscaling_crop: bool = True
    upscaler_1: str = _NONE
    gfpgan_visibility: float = 0
    codeformer_visibility: float = 0
    extras_upscaler_2_visibility: float = 0


class PngInfoBody(BaseModel):
    """A picture whose text is wanted."""

    image: str


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
    everything = psutil.virtual_memory()
    return {"ram": {"free": everything.available, "used": everything.used, "total": everything.total}, "cuda": {}}


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


@router.post("/extra-single-image")
async def extra_single_image(body: ExtraBody, studio: SharedStudio) -> dict[str, Any]:
    """Enlarge a picture."""
    for field in ("gfpgan_visibility", "codeformer_visibility", "extras_upscaler_2_visibility"):
        if getattr(body, field):
            raise InvalidRequestError(
                f"{field}={getattr(body, field):g} is nothing this server does: leave it out", field
            )
    source = _decoded(body.image)
    enlarged = await anyio.to_thread.run_sync(_enlarged, source, body, studio)
    return {"html_info": "", "image": base64.b64encode(enlarged).decode()}


@router.post("/png-info")
async def png_info(body: PngInfoBody) -> dict[str, Any]:
    """The text that a picture carries."""
    source = _decoded(body.image)
    text = text_of(await anyio.to_thread.run_sync(read_picture, source))
    return {"info": text.get(A1111_CHUNK, ""), "items": text, "parameters": {}}


def _checkpoint(title: str, name: str, filename: str) -> dict[str, Any]:
    return {
        "title": title,
        "model_name": name,
        "hash": None,
        "sha256": None,
        "filename": filename,
        "config": None,
    }


def _enlarged(source: bytes, body: ExtraBody, studio: Studio) -> bytes:
    image = read_picture(source)
    wanted = (math.floor(image.width * body.upscaling_resize), math.floor(image.height * body.upscaling_resize))
    if body.resize_mode == 1:
        wanted = (body.upscaling_resize_w, body.upscaling_resize_h)
    name = "lanczos" if body.upscaler_1.lower() in ("none", "lanczos") else body.upscaler_1
    return studio.upscalers.enlarge_to(source, wanted, name, crop=body.resize_mode == 1 and body.upscaling_crop)


def _decoded(text: str) -> bytes:
    """What base64 says, with or without the beginning of a data URL."""
    try:
        return base64.b64decode(text.partition("base64,")[2] or text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequestError(f"The image is no base64 ({error}): encode the file's bytes", "image") from error
