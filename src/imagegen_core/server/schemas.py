"""Request bodies and results of the server's own API."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field

from imagegen_core.request import GenerateRequest
from imagegen_core.server.body_picture import BodyPicture
from imagegen_core.server.headers import upscaling_headers

if TYPE_CHECKING:
    from fastapi import Request as HttpRequest

    from imagegen_core.hosting.upscaling import Enlarged
    from imagegen_core.picture import Picture
    from imagegen_core.server.context import ServerContext


class GenerateBody(GenerateRequest):
    """A request for a picture, with options for an enlargement.

    Attributes:
        superres: True to enlarge the picture.
        superres_format: Format of the enlarged picture.
        superres_quality: JPEG quality, 1 to 100.
        superres_magnitude: Number of upscaling passes, 1 to 3.
        mode: Name of a mode; None is the server's default.
        image: See `BodyPicture`, also for `mask`; `with_pictures` reads them.
        mask: A mask of the image's size: white parts are drawn again, and black parts stay as they are.
    """

    superres: bool = False
    superres_format: Literal["png", "jpeg"] = "png"
    superres_quality: int = Field(default=92, ge=1, le=100)
    superres_magnitude: int = Field(default=1, ge=1, le=3)
    mode: str | None = None
    image: Annotated[Any, BodyPicture("image")] = None
    mask: Annotated[Any, BodyPicture("mask")] = None

    model_config = ConfigDict(
        extra="allow",  # the parameters of plugins; `ServerContext.complete` refuses other fields
        json_schema_extra={
            "examples": [
                {"prompt": "a red circle on a blue background", "seed": 7},
                {"prompt": "a lake at dawn", "size": "256x256", "num_inference_steps": 6, "superres": True},
            ]
        },
    )


@dataclass(frozen=True, slots=True)
class Order:
    """A completed request with its context.

    Attributes:
        body: The request, with its defaults.
        mode: Name of the mode.
        caller: Name of the API key's owner.
        since: `time.monotonic` seconds of the request.
    """

    body: GenerateBody
    mode: str
    caller: str
    since: float


@dataclass(frozen=True, slots=True)
class Result:
    """A finished picture for a client.

    Attributes:
        data: The encoded picture.
        format: ``png`` or ``jpeg``.
        seed: The picture's seed.
        mode: Name of the mode.
        enlarged: Details of the enlargement; None without one.
        key: The picture's key in the store; None if it is not stored.
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
        """The response's headers."""
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
        """Return the picture and its details for a JSON response."""
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
    """Enlarge a picture if the order asks for it, and store it.

    Args:
        context: The server's context.
        picture: The picture.
        order: The completed request.
        request: The client's request, to stop if the client hangs up. None if the client does not wait.

    Raises:
        ImagegenError: The enlargement failed.
    """
    enlarged, data, form = None, picture.png, "png"
    if order.body.superres:
        enlarge = partial(
            context.upscalers.enlarge,
            picture.png,
            order.body.superres_magnitude,
            order.body.superres_format,
            order.body.superres_quality,
        )
        enlarged = await context.upscaled(request, order.caller, enlarge, order.since)
        data, form = enlarged.data, enlarged.format
    key = await context.keep(data, order.caller)
    return Result(data, form, picture.seed, order.mode, enlarged, key)
