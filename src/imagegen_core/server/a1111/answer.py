"""The response of A1111's ``txt2img`` and ``img2img``: the pictures and their details."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from imagegen_core.hosting.model_card import ModelCard
from imagegen_core.picture import Picture
from imagegen_core.request import GenerateRequest, Size
from imagegen_core.server.a1111.body import DrawingBody
from imagegen_core.server.a1111.infotext import with_details


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture with its request.

    Attributes:
        picture: The picture.
        request: The completed request.
    """

    picture: Picture
    request: GenerateRequest


def answer_of(body: DrawingBody, drawn: Sequence[Drawn], card: ModelCard) -> bytes:
    """Build the JSON response. It is slow: it encodes the pictures and reads their text.

    Args:
        body: The client's request body.
        drawn: The pictures, at least one, all of the same size.
        card: The model's card, with the name from ``sd-models``.
    """
    pictures = [with_details(each.picture.png, body.details) for each in drawn]
    images = [base64.b64encode(png).decode() for png, _ in pictures] if body.send_images else []
    info = json.dumps(_info(body, drawn, [text for _, text in pictures], card))
    return json.dumps({"images": images, "parameters": body.parameters, "info": info}).encode()


def _info(body: DrawingBody, drawn: Sequence[Drawn], texts: Sequence[str], card: ModelCard) -> dict[str, Any]:
    """Return the fields of ``Processed.js`` in A1111's ``modules/processing.py``."""
    count, seeds = len(drawn), [each.picture.seed for each in drawn]
    asked = drawn[0].request
    width, height = _asked_sides(drawn[0])
    subseeds = [each.request.variation.seed if body.subseed_strength else -1 for each in drawn]
    details = {name: value for name, value in body.details.items() if value is not None}
    return {
        "prompt": body.prompt,
        "all_prompts": [body.prompt] * count,
        "negative_prompt": body.negative_prompt,
        "all_negative_prompts": [body.negative_prompt] * count,
        "seed": seeds[0],
        "all_seeds": seeds,
        "subseed": subseeds[0],
        "all_subseeds": subseeds,
        "subseed_strength": body.subseed_strength,
        "width": width,
        "height": height,
        "sampler_name": asked.scheduler or card.sampler or "",
        "cfg_scale": asked.guidance_scale,
        "steps": asked.num_inference_steps,
        "batch_size": body.batch_size,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": card.name,
        "sd_model_hash": "",
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": body.seed_resize_from_w,
        "seed_resize_from_h": body.seed_resize_from_h,
        "denoising_strength": details.get("Denoising strength"),
        "extra_generation_params": details,
        "index_of_first_image": 0,
        "infotexts": list(texts),
        "styles": body.named_styles,
        "job_timestamp": time.strftime("%Y%m%d%H%M%S"),
        "clip_skip": asked.clip_skip + 1,
        "is_using_inpainting_conditioning": False,
        "version": f"imagegen {version('imagegen-core')}",
    }


def _asked_sides(drawn: Drawn) -> tuple[int, int]:
    """Return the size of the first stage, also if the picture has another size."""
    if "size" not in drawn.request.model_fields_set:
        return drawn.picture.size
    size = Size.parse(drawn.request.size)
    return size.width, size.height
