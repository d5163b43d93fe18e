"""A drawn picture, made into what was asked for."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, Field

from imagegen_core.request import GenerateRequest
from imagegen_core.server.headers import upscaling_headers

if TYPE_CHECKING:
    from fastapi import Request as HttpRequest

    from imagegen_core.hosting.upscaling import Enlarged
    from imagegen_core.picture import Picture
    from imagegen_core.server.context import ServerContext


class GenerateBody(GenerateRequest):
    """A picture to draw, and what to make of it.

    Attributes:
        superres: Whether to enlarge it.
        superres_format: What the enlarged picture is encoded as.
        superres_quality: JPEG's quality.
        superres_magnitude: How many times to enlarge it.
        mode: Which of the server's modes draws; None is its default.
    """

    superres: bool = False
    superres_format: Literal["png", "jpeg"] = "png"
    superres_quality: int = Field(default=92, ge=1, le=100)
    superres_magnitude: int = Field(default=1, ge=1, le=3)
    mode: str | None = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"prompt": "a red circle on a blue background", "seed": 7},
                {"prompt": "a lake at dawn", "size": "256x256", "num_inference_steps": 6, "superres": True},
            ]
        }
    )


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for.

    Attributes:
        body: The request, with its defaults.
        mode: The mode that draws it.
        caller: Whose key it came with.
        since: `time.monotonic` seconds at which it was asked for.
    """

    body: GenerateBody
    mode: str
    caller: str
    since: float


@dataclass(frozen=True, slots=True)
class Result:
    """What a client is given.

    Attributes:
        data: The encoded picture.
        format: ``png`` or ``jpeg``.
        seed: The seed it was drawn from.
        mode: The mode that drew it.
        enlarged: How it was enlarged, if it was.
        key: What it is stored under, if it is.
    """

    data: bytes
    format: str
    seed: int
    mode: str
    enlarged: Enlarged | None
    key: str | None

    @property
    def media_type(self) -> str:
        """The picture's media type."""
        return f"image/{self.format}"

    @property
    def headers(self) -> dict[str, str]:
        """What goes with the picture."""
        headers = {
            "X-Seed": str(self.seed),
            "X-SuperRes": str(int(self.enlarged is not None)),
            "X-Mode": self.mode,
            "Cache-Control": "no-store",
        }
        if self.key is not None:
            headers["X-LCM-Image-Key"] = self.key
        return headers | (upscaling_headers(self.enlarged) if self.enlarged else {})

    def as_json(self) -> dict[str, Any]:
        """The picture and what goes with it, for clients that take JSON."""
        enlarged = self.enlarged
        return {
            "image": base64.b64encode(self.data).decode(),
            "format": self.format,
            "seed": self.seed,
            "mode": self.mode,
            "key": self.key,
            "superres": None
            if enlarged is None
            else {"model": enlarged.upscaler, "passes": enlarged.passes, "scale_per_pass": enlarged.scale},
        }


async def make_result(
    context: ServerContext, picture: Picture, order: Order, request: HttpRequest | None = None
) -> Result:
    """Enlarge a picture where that is asked for, and store it.

    Args:
        context: The server's parts.
        picture: The picture.
        order: What was asked for.
        request: The client's, which gives the picture up by hanging up; None where it does not wait.

    Raises:
        ImagegenError: It cannot be enlarged.
    """
    enlarged, data, form = None, picture.png, "png"
    if order.body.superres:
        enlarge = partial(
            context.upscalers.enlarge,
            picture.png,
            order.body.superres_magnitude,
            order.body.superres_format,
            order.body.superres_quality,
            None,
        )
        enlarged = await context.upscaled(request, order.caller, enlarge, order.since)
        data, form = enlarged.data, enlarged.format
    key = await context.keep(data, order.caller)
    return Result(data, form, picture.seed, order.mode, enlarged, key)
