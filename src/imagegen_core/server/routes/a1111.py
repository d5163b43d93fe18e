"""A1111's API for drawing, for the clients of its web UI: ``txt2img``, ``progress``, ``interrupt``."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from imagegen_core.errors import InvalidRequestError
from imagegen_core.images.reading import read_picture, text_of
from imagegen_core.images.recipe import A1111_CHUNK
from imagegen_core.modes import Mode
from imagegen_core.picture import Picture
from imagegen_core.request import GenerateRequest, StyleLoraRequest
from imagegen_core.samplers import OwnScheduler, find_sampling
from imagegen_core.schedules import AUTOMATIC, plain_name
from imagegen_core.server.model_card import ModelCard
from imagegen_core.server.options import Options
from imagegen_core.server.prompt_syntax import LoraTag, check_negative_prompt, read_prompt
from imagegen_core.server.studio import Caller, SharedStudio, Studio, drawn_all

router = APIRouter(prefix="/sdapi/v1", tags=["A1111"])

_MOST_PICTURES = 16
_UNASKED_ETA = _UNASKED_NOISE = 1.0  # A1111's defaults
# What this server does not do, and the values that do not ask for it.
_UNASKED: dict[str, tuple[Any, ...]] = {
    "enable_hr": (False,),
    "subseed_strength": (0, 0.0),
    "seed_resize_from_h": (0, -1),
    "seed_resize_from_w": (0, -1),
    "restore_faces": (False, None),
    "tiling": (False, None),
    "script_name": (None, ""),
    "refiner_checkpoint": (None, ""),
}


class Txt2ImgBody(BaseModel):
    """A1111's fields, of those that mean something here; what asks for more is refused, the rest is ignored."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"examples": [{"prompt": "a red circle on a blue background", "steps": 4, "cfg_scale": 1}]},
    )

    prompt: str = ""
    negative_prompt: str = ""
    styles: list[str] | None = None
    seed: int = -1
    sampler_name: str | None = None
    sampler_index: str | None = None
    scheduler: str | None = None
    batch_size: int = Field(default=1, ge=1, le=_MOST_PICTURES)
    n_iter: int = Field(default=1, ge=1, le=_MOST_PICTURES)
    steps: int | None = None
    cfg_scale: float | None = None
    eta: float | None = None
    s_churn: float | None = None
    s_tmin: float | None = None
    s_tmax: float | None = None
    s_noise: float | None = None
    width: int | None = None
    height: int | None = None
    override_settings: dict[str, Any] | None = None
    alwayson_scripts: dict[str, Any] | None = None
    send_images: bool = True


@router.post("/txt2img")
async def txt2img(body: Txt2ImgBody, request: Request, studio: SharedStudio, caller: Caller) -> dict[str, Any]:
    """Draw ``batch_size`` times ``n_iter`` pictures, their seeds counting up."""
    _check(body)
    count = body.batch_size * body.n_iter
    if count > _MOST_PICTURES:
        raise InvalidRequestError(
            f"Invalid n_iter {body.n_iter}: at most {_MOST_PICTURES} pictures at a time", "n_iter"
        )
    options = studio.options.with_overrides(body.override_settings or {}, studio.checkpoints())
    mode = studio.model.modes.find(options.mode)
    asked = studio.complete(_request(body, studio, mode, options), mode)
    tickets = studio.submit_all(studio.several(asked, count), caller, mode)
    with studio.runs.running(caller, tickets):
        pictures = await drawn_all(request, tickets)
    images = [base64.b64encode(picture.png).decode() for picture in pictures] if body.send_images else []
    info = await anyio.to_thread.run_sync(_info, body, pictures)
    return {"images": images, "parameters": body.model_dump(), "info": json.dumps(info)}


@router.post("/interrupt")
async def interrupt(studio: SharedStudio, caller: Caller) -> dict[str, Any]:
    """Give up what this caller has ``txt2img`` draw, within a step."""
    for ticket in studio.runs.of(caller):
        ticket.cancel()
    return {}


@router.get("/progress")
async def progress(studio: SharedStudio, caller: Caller, skip_current_image: bool = False) -> dict[str, Any]:
    """How far ``txt2img`` is with this caller's pictures, and what the present one looks like."""
    now = studio.runs.progress(caller)
    current = now.current
    preview = None if current is None or skip_current_image else current.preview
    return {
        "progress": now.done,
        "eta_relative": now.seconds_left,
        "state": {
            "skipped": False,
            "interrupted": False,
            "stopping_generation": False,
            "job": "txt2img" if now.count else "",
            "job_count": now.count,
            "job_timestamp": "0",
            "job_no": now.finished,
            "sampling_step": current.step if current else 0,
            "sampling_steps": current.steps if current else 0,
        },
        "current_image": None if preview is None else base64.b64encode(preview).decode(),
        "textinfo": None,
    }


def _check(body: Txt2ImgBody) -> None:
    """Refuse what would draw another picture than the one asked for."""
    extra = body.model_extra or {}
    for field, unasked in _UNASKED.items():
        if field in extra and extra[field] not in unasked:
            raise InvalidRequestError(
                f"{field}={str(extra[field])[:64]!r} is nothing this server does: leave it out", field
            )
    for script, given in (body.alwayson_scripts or {}).items():
        arguments = given.get("args") if isinstance(given, dict) else given
        if arguments and arguments != [False]:
            raise InvalidRequestError(f"There is no script {script[:64]!r} here: leave it out", "alwayson_scripts")


def _request(body: Txt2ImgBody, studio: Studio, mode: Mode, options: Options) -> GenerateRequest:
    card = studio.card(mode)
    for field, text in (("prompt", body.prompt), ("negative_prompt", body.negative_prompt)):
        studio.check_length(text, field)
    prompt, tags = read_prompt(body.prompt)
    check_negative_prompt(body.negative_prompt)
    return GenerateRequest.given(
        prompt=prompt,
        negative_prompt=body.negative_prompt or None,
        seed=None if body.seed == -1 else body.seed,
        num_inference_steps=body.steps,
        guidance_scale=body.cfg_scale,
        size=_size(body, studio, mode),
        **_sampling(body, studio, card),
        clip_skip=options.clip_stop_at_last_layers - 1,
        style_lora=_style([*tags, *map(LoraTag, body.styles or [])], card),
    )


def _size(body: Txt2ImgBody, studio: Studio, mode: Mode) -> str | None:
    if body.width is None and body.height is None:
        return None
    native = studio.size_of(mode.complete(GenerateRequest(prompt="")), mode)
    return (
        f"{native.width if body.width is None else body.width}x{native.height if body.height is None else body.height}"
    )


def _sampling(body: Txt2ImgBody, studio: Studio, card: ModelCard) -> dict[str, Any]:
    """The sampler with the noise schedule that A1111 gives it, and what it is asked in each step.

    A1111's clients send its defaults along, also to samplers that have no such thing: these ask nothing.
    """
    name = body.sampler_name or body.sampler_index
    schedule: str | None = body.scheduler or AUTOMATIC
    if name is None and schedule and plain_name(schedule) == plain_name(AUTOMATIC):
        schedule = None  # the server's default sampler is as the server has it
    asked: dict[str, Any] = {
        "scheduler": name,
        "schedule": schedule,
        "s_churn": body.s_churn or None,
        "s_tmin": body.s_tmin or None,
        "s_tmax": body.s_tmax or None,  # A1111's 0 is infinity
        "s_noise": None if body.s_noise == _UNASKED_NOISE else body.s_noise,
    }
    if body.eta != _UNASKED_ETA or (drawn_with := name or card.sampler) is None:
        return asked | {"eta": None if body.eta == _UNASKED_ETA else body.eta}
    own = card.own_scheduler or OwnScheduler("")
    sampler, _ = find_sampling(drawn_with, None, studio.registry.samplers.values(), own)
    return asked | {"eta": body.eta if sampler.eta is None else None}


def _style(tags: list[LoraTag], card: ModelCard) -> StyleLoraRequest | None:
    """The style that LoRA tags and ``styles`` name; a strength of 0 is off."""
    wanted = [tag for tag in tags if tag.strength != 0]
    if not wanted:
        return StyleLoraRequest() if tags else None
    if len(wanted) > 1:
        raise InvalidRequestError("A picture is drawn in one style here: name one", "styles")
    (tag,) = wanted
    levels = card.styles.get(tag.name, ())
    if tag.strength is None or not levels:  # an unknown style is refused by who draws, with those there are
        return StyleLoraRequest(style=tag.name, level=len(levels) or 1)
    for level, strength in enumerate(levels, start=1):
        if math.isclose(strength, tag.strength, rel_tol=1e-6):
            return StyleLoraRequest(style=tag.name, level=level)
    known = ", ".join(f"{strength:g}" for strength in levels)
    raise InvalidRequestError(
        f"Invalid strength {tag.strength:g} of <lora:{tag.name}>: its style has {known}, and 0 is off", "prompt"
    )


def _info(body: Txt2ImgBody, pictures: list[Picture]) -> dict[str, Any]:
    seeds = [picture.seed for picture in pictures]
    texts = [text_of(read_picture(picture.png)).get(A1111_CHUNK, "") for picture in pictures]
    width, height = pictures[0].size
    return {
        "prompt": body.prompt,
        "all_prompts": [body.prompt] * len(pictures),
        "negative_prompt": body.negative_prompt,
        "all_negative_prompts": [body.negative_prompt] * len(pictures),
        "seed": seeds[0],
        "all_seeds": seeds,
        "subseed": -1,
        "all_subseeds": [-1] * len(pictures),
        "subseed_strength": 0,
        "width": width,
        "height": height,
        "sampler_name": body.sampler_name or body.sampler_index or "",
        "cfg_scale": body.cfg_scale,
        "steps": body.steps,
        "batch_size": body.batch_size,
        "infotexts": texts,
        "index_of_first_image": 0,
        "styles": body.styles or [],
        "job_timestamp": "0",
        "clip_skip": 1,
        "is_using_inpainting_conditioning": False,
    }
