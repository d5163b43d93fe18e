"""The plugin's hooks: wildcards in prompts, a watermark, and a webhook."""

from __future__ import annotations

import os
import random
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import imagegen_core
from imagegen_core import Parameter, hookimpl

if TYPE_CHECKING:
    from imagegen_core import Event, GenerateRequest, Job, Picture

requires_contract = "1.0"

WILDCARDS = {"colour": ["red", "green", "blue"], "place": ["a lake", "a harbour", "a market"]}


@hookimpl
def imagegen_parameters() -> list[Parameter]:
    """Add the field ``watermark``."""
    return [Parameter("watermark", str, "", "Text for the lower left corner of the picture.")]


@hookimpl
def imagegen_request(request: GenerateRequest) -> GenerateRequest:
    """Replace ``__colour__`` by a colour: the same seed, the same colour."""
    chance = random.Random(request.seed)
    prompt = re.sub(r"__(\w+)__", lambda found: chance.choice(WILDCARDS.get(found[1], [found[0]])), request.prompt)
    return request.model_copy(update={"prompt": prompt})


@hookimpl
def imagegen_picture(picture: Picture, request: GenerateRequest) -> Picture | None:
    """Write the watermark; imagegen keeps the picture's recipe."""
    if not request.parameters["watermark"]:
        return None
    import numpy as np
    from PIL import ImageDraw

    image = picture.image.copy()
    ImageDraw.Draw(image).text((4, image.height - 14), request.parameters["watermark"], fill="white")
    return replace(picture, png=imagegen_core.encode_png(np.asarray(image)))


@hookimpl
def imagegen_job_event(job: Job, event: Event) -> None:
    """Post each finished picture's seed to the address in ``POSTCARD_WEBHOOK``."""
    if isinstance(event, imagegen_core.Done) and (address := os.environ.get("POSTCARD_WEBHOOK")):
        import json
        from urllib.request import Request, urlopen

        body = json.dumps({"job": job.id, "seed": event.picture.seed}).encode()
        urlopen(Request(address, body, {"Content-Type": "application/json"}), timeout=5).close()  # noqa: S310
