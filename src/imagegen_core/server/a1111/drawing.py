"""A1111's ``txt2img``, with ``progress``, ``interrupt`` and ``skip`` for the caller's pictures in progress."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from imagegen_core.engine import Ticket
from imagegen_core.errors import InvalidRequestError
from imagegen_core.hosting.model_card import ModelCard
from imagegen_core.modes import Mode
from imagegen_core.picture import Picture
from imagegen_core.request import GenerateRequest, StyleLoraRequest, with_counted_seeds
from imagegen_core.server.a1111.answer import answer_of
from imagegen_core.server.a1111.body import Txt2ImgBody
from imagegen_core.server.a1111.callers import named_card, options_with
from imagegen_core.server.a1111.options import Options
from imagegen_core.server.a1111.prompt_syntax import LoraTag, check_negative_prompt, read_prompt
from imagegen_core.server.a1111.sampling import sampling_of
from imagegen_core.server.context import Caller, ServerContext, SharedContext
from imagegen_core.server.errors import ConflictError
from imagegen_core.server.middleware.json_bodies import JsonRoute
from imagegen_core.server.waiting import drawn

router = APIRouter(route_class=JsonRoute)


@router.post("/txt2img", response_class=JSONResponse)
async def txt2img(body: Txt2ImgBody, request: Request, context: SharedContext, caller: Caller) -> Response:
    """Draw ``batch_size`` times ``n_iter`` pictures with consecutive seeds."""
    body.check(context.registry.parameters)
    options = options_with(context, caller, _overrides(body))
    mode = context.mode_manager.modes.find(options.mode)
    card = named_card(context, mode)
    asked = context.complete(_request(body, context, mode, card, options), mode)
    requests = await context.final(with_counted_seeds(asked, body.batch_size * body.n_iter), mode)
    tickets = context.submit_all(requests, caller, mode)
    with context.runs.running(caller, tickets):
        pictures = await _drawn_unless_skipped(request, tickets, context)
    answer = await anyio.to_thread.run_sync(answer_of, body, asked, pictures, card)
    return Response(answer, media_type="application/json")


@router.post("/interrupt")
async def interrupt(context: SharedContext, caller: Caller) -> dict[str, Any]:
    """Cancel this caller's ``txt2img`` pictures within one step."""
    for ticket in context.runs.of(caller):
        ticket.cancel()
    return {}


@router.post("/skip")
async def skip(context: SharedContext, caller: Caller) -> None:
    """Cancel this caller's current ``txt2img`` picture, and continue with the next."""
    context.runs.skip(caller)


@router.get("/progress")
async def progress(context: SharedContext, caller: Caller, skip_current_image: bool = False) -> dict[str, Any]:
    """Return the progress of this caller's ``txt2img`` pictures, with a preview of the current picture."""
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


def _overrides(body: Txt2ImgBody) -> dict[str, Any]:
    """Return the options for this request only, including SD.Next's field for "Clip skip"."""
    clip_skip = {} if body.clip_skip is None else {"CLIP_stop_at_last_layers": body.clip_skip}
    return clip_skip | body.override_settings


def _request(
    body: Txt2ImgBody, context: ServerContext, mode: Mode, card: ModelCard, options: Options
) -> GenerateRequest:
    for field, text in (("prompt", body.prompt), ("negative_prompt", body.negative_prompt)):
        context.limits.check_length(text, field)
    prompt, tags = read_prompt(body.prompt)
    check_negative_prompt(body.negative_prompt)
    return GenerateRequest.given(
        prompt=prompt,
        negative_prompt=body.negative_prompt or None,
        seed=None if body.seed == -1 else body.seed,
        num_inference_steps=body.steps,
        guidance_scale=body.cfg_scale,
        size=_size(body, context, mode),
        **sampling_of(body, card, context.registry),
        clip_skip=options.clip_stop_at_last_layers - 1,
        style_lora=_style([*tags, *map(LoraTag, body.named_styles)], card),
    ).with_parameters(body.declared(context.registry.parameters))


def _size(body: Txt2ImgBody, context: ServerContext, mode: Mode) -> str | None:
    if body.width is None and body.height is None:
        return None
    native = context.size_of(mode.complete(GenerateRequest(prompt="")), mode)
    width = native.width if body.width is None else body.width
    return f"{width}x{native.height if body.height is None else body.height}"


def _style(tags: Sequence[LoraTag], card: ModelCard) -> StyleLoraRequest | None:
    """Convert LoRA tags and ``styles`` to a style request; a strength of 0 is off."""
    wanted = [tag for tag in tags if tag.strength != 0]
    if not wanted:
        return StyleLoraRequest() if tags else None
    if len(wanted) > 1:
        raise InvalidRequestError("A picture can have only one style: name one", "styles")
    (tag,) = wanted
    levels = card.styles.get(tag.name, ())
    if tag.strength is None or not levels:  # the worker refuses an unknown style, and lists the known styles
        return StyleLoraRequest(style=tag.name, level=len(levels) or 1)
    for level, strength in enumerate(levels, start=1):
        if math.isclose(strength, tag.strength, rel_tol=1e-6):
            return StyleLoraRequest(style=tag.name, level=level)
    known = ", ".join(f"{strength:g}" for strength in levels)
    raise InvalidRequestError(
        f"Invalid strength {tag.strength:g} of <lora:{tag.name[:64]}>: its style has {known}, and 0 is off", "prompt"
    )


async def _drawn_unless_skipped(request: Request, tickets: Sequence[Ticket], context: ServerContext) -> list[Picture]:
    """Wait for the pictures, without the skipped pictures; see `drawn`.

    Raises:
        ConflictError: All pictures were skipped, or the caller interrupted them.
    """
    pictures = []
    try:
        for ticket in tickets:
            try:
                pictures.append(await drawn(request, ticket))
            except ConflictError:
                if not context.runs.is_skipped(ticket) or (ticket is tickets[-1] and not pictures):
                    raise
    finally:
        for ticket in tickets:
            ticket.cancel()  # no effect on finished tickets
    return pictures
