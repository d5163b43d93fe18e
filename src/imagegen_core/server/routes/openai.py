"""OpenAI's images API, for its official clients: https://platform.openai.com/docs/api-reference/images."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import ConfigDict, Field
from sse_starlette import EventSourceResponse, ServerSentEvent

from imagegen_core.engine import Ticket
from imagegen_core.errors import InvalidRequestError, StorageError
from imagegen_core.images.converting import Encoding, convert, enlarge_preview
from imagegen_core.job import StepDone
from imagegen_core.modes import Mode
from imagegen_core.picture import Picture
from imagegen_core.request import GenerateRequest, StyleLoraRequest, with_counted_seeds
from imagegen_core.resolution.parameters import parameters_of
from imagegen_core.server.body import Body
from imagegen_core.server.context import Caller, ServerContext, SharedContext
from imagegen_core.server.errors import NotFoundError, problem
from imagegen_core.server.links import url_to
from imagegen_core.server.middleware.json_bodies import JsonRoute
from imagegen_core.server.waiting import drawn_all

router = APIRouter(route_class=JsonRoute, prefix="/v1", tags=["OpenAI"])

_OWNER = "imagegen"


class ImagesBody(Body):
    """OpenAI's fields, then this server's own. OpenAI's clients send the latter with ``extra_body``."""

    model_config = ConfigDict(
        extra="allow",  # the parameters of plugins; `ServerContext.complete` refuses other fields, as OpenAI does
        json_schema_extra={"examples": [{"prompt": "a red circle on a blue background"}]},
    )

    prompt: str
    model: str | None = None
    n: int = Field(default=1, ge=1, le=10)
    size: str | None = None
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Encoding | None = None
    output_compression: int | None = Field(default=None, ge=0, le=100)
    quality: str | None = None
    style: str | None = None
    background: str | None = None
    moderation: str | None = None
    user: str | None = None
    stream: bool | None = None
    partial_images: int | None = Field(default=None, ge=0, le=3)

    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    seed: int | None = None
    negative_prompt: str | None = None
    scheduler: str | None = None
    schedule: str | None = None
    guidance_rescale: float | None = None
    eta: float | None = None
    s_churn: float | None = None
    s_tmin: float | None = None
    s_tmax: float | None = None
    s_noise: float | None = None
    style_lora: StyleLoraRequest | None = None


@router.get("/models")
async def models(context: SharedContext) -> dict[str, Any]:
    """List the valid model names: the modes, or the only model."""
    return {"object": "list", "data": [_model(name, context) for name in _names(context)]}


@router.get("/models/{model:path}")
async def model(model: str, context: SharedContext) -> dict[str, Any]:
    """Return the model with this name."""
    return _model(model, context)


@router.post("/images/generations", response_model=None)
async def images(body: ImagesBody, request: Request, context: SharedContext, caller: Caller) -> Response:
    """Draw ``n`` pictures with consecutive seeds; ``stream`` sends previews, and each picture when it is ready."""
    mode = _mode(body.model, context)
    _check(body, context)
    requests = await context.final(_requests(body, context, mode), mode)
    tickets = context.submit_all(requests, caller, mode)
    if body.stream:
        return EventSourceResponse(_stream(tickets, body))
    pictures = await drawn_all(request, tickets)
    created = int(time.time())
    data = [await _datum(picture, body, request, context, caller) for picture in pictures]
    return JSONResponse({"created": created, "data": data} | _described(pictures[0], body))


def _requests(body: ImagesBody, context: ServerContext, mode: Mode) -> list[GenerateRequest]:
    asked = GenerateRequest.given(
        prompt=body.prompt,
        size=None if body.size == "auto" else body.size,
        num_inference_steps=body.num_inference_steps,
        guidance_scale=body.guidance_scale,
        seed=body.seed,
        negative_prompt=body.negative_prompt,
        scheduler=body.scheduler,
        schedule=body.schedule,
        guidance_rescale=body.guidance_rescale,
        eta=body.eta,
        s_churn=body.s_churn,
        s_tmin=body.s_tmin,
        s_tmax=body.s_tmax,
        s_noise=body.s_noise,
        style_lora=body.style_lora,
    ).with_parameters(body.model_extra or {})
    return with_counted_seeds(context.complete(asked, mode), body.n)


async def _datum(
    picture: Picture, body: ImagesBody, request: Request, context: ServerContext, caller: str
) -> dict[str, Any]:
    data = await _encoded(picture, body)
    if body.response_format != "url":
        return {"b64_json": base64.b64encode(data).decode()}
    key = await context.keep(data, caller)
    if key is None:
        raise StorageError("The picture could not be stored: ask with response_format b64_json")
    return {"url": url_to(request, "fetch", key=key)}


async def _stream(tickets: Sequence[Ticket], body: ImagesBody) -> AsyncIterator[ServerSentEvent]:
    """Yield partial and completed pictures. An error becomes an event, because the status is already sent."""
    try:
        for ticket in tickets:
            async for event in _events(ticket, body):
                yield ServerSentEvent(json.dumps(event), event=event.get("type", "error"))
    except Exception as error:  # noqa: BLE001 - the error is already logged
        http_error = problem(error)
        said = {
            "error": {
                "message": http_error.message,
                "type": "server_error",
                "param": http_error.field,
                "code": http_error.kind,
            }
        }
        yield ServerSentEvent(json.dumps(said), event="error")
    finally:
        for ticket in tickets:
            ticket.cancel()


async def _events(ticket: Ticket, body: ImagesBody) -> AsyncIterator[dict[str, Any]]:
    number = 0
    async for event in ticket.events:
        if not isinstance(event, StepDone) or event.preview is None or event.step == event.steps:
            continue
        if not _is_shown(event, body.partial_images or 0):
            continue
        preview = await anyio.to_thread.run_sync(enlarge_preview, event.preview, body.output_format or "png")
        yield {
            "type": "image_generation.partial_image",
            "partial_image_index": number,
            "b64_json": base64.b64encode(preview).decode(),
            "created_at": int(time.time()),
        } | _described(None, body)
        number += 1
    picture = await ticket
    data = await _encoded(picture, body)
    yield {
        "type": "image_generation.completed",
        "b64_json": base64.b64encode(data).decode(),
        "created_at": int(time.time()),
        "usage": {
            "input_tokens": 0,
            "output_tokens": 0,
            "total_tokens": 0,
            "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
        },
    } | _described(picture, body)


def _is_shown(done: StepDone, wanted: int) -> bool:
    """Return True if this step is one of `wanted` steps, spread evenly over all but the last."""
    others = done.steps - 1
    shown = min(wanted, others)
    return shown > 0 and done.step * shown // others > (done.step - 1) * shown // others


def _described(picture: Picture | None, body: ImagesBody) -> dict[str, Any]:
    size = body.size or "auto"
    if picture is not None:
        size = "{}x{}".format(*picture.size)
    return {
        "size": size,
        "quality": "auto",
        "background": "opaque",
        "output_format": body.output_format or "png",
    }


async def _encoded(picture: Picture, body: ImagesBody) -> bytes:
    quality = 100 if body.output_compression is None else body.output_compression
    return await anyio.to_thread.run_sync(convert, picture.png, body.output_format or "png", quality)


def _check(body: ImagesBody, context: ServerContext) -> None:
    """Refuse features of OpenAI's models that this server lacks, instead of drawing another picture."""
    for field, meant in (
        ("quality", ("auto", "standard", "low", "medium", "high")),  # a hint; the response's "auto" corrects it
        ("style", ("natural",)),
        ("background", ("auto", "opaque")),
        ("moderation", ("auto", "low")),
    ):
        value = getattr(body, field)
        if value is not None and value not in meant:
            raise InvalidRequestError(f"Invalid {field} {value[:64]!r}: expected {' or '.join(meant)}", field)
    if body.response_format == "url" and (context.store is None or not context.settings.storage_enable_http):
        raise InvalidRequestError(
            "No url can be given, as storage is off on this server: ask for b64_json", "response_format"
        )
    if body.response_format == "url" and body.stream:
        raise InvalidRequestError(
            "A stream holds the pictures themselves: leave response_format out", "response_format"
        )


def _names(context: ServerContext) -> list[str]:
    modes = context.mode_manager.modes
    return list(modes.modes) if modes.configured else [context.card().name]


def _mode(model: str | None, context: ServerContext) -> Mode:
    """Find the mode for a model's name.

    Raises:
        NotFoundError: There is no model with that name.
    """
    names, modes = _names(context), context.mode_manager.modes
    if model is not None and model not in names:
        raise NotFoundError(f"No model {model[:64]!r} is served here: ask for {' or '.join(names)}, or leave it out")
    return modes.find(model if modes.configured else None)


def _model(name: str, context: ServerContext) -> dict[str, Any]:
    """Describe a model: OpenAI's fields, then its backend and the fields of its requests."""
    backend = context.backend(_mode(name, context))
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": _OWNER,
        "backend": backend and backend.name,
        "fields": [*backend.supported] if backend else [*GenerateRequest.model_fields],
        "parameters": {
            parameter.name: parameter.schema
            for parameter in parameters_of(context.registry.parameters.values(), backend)
        },
    }
