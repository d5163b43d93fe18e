"""The response of A1111's ``txt2img``: the pictures and their details."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from imagegen_core.hosting.model_card import ModelCard
from imagegen_core.images.recipe import A1111_CHUNK
from imagegen_core.picture import Picture
from imagegen_core.picture_files.decode import read_text
from imagegen_core.request import GenerateRequest
from imagegen_core.server.a1111.body import Txt2ImgBody


def answer_of(body: Txt2ImgBody, asked: GenerateRequest, pictures: Sequence[Picture], card: ModelCard) -> bytes:
    """Build the JSON response of ``txt2img``. It is slow: it encodes the pictures and reads their text.

    Args:
        body: The client's request body.
        asked: The completed request.
        pictures: The pictures, at least one, all of the same size.
        card: The model's card, with the name from ``sd-models``.
    """
    images = [base64.b64encode(picture.png).decode() for picture in pictures] if body.send_images else []
    info = json.dumps(_info(body, asked, pictures, card))
    return json.dumps({"images": images, "parameters": body.parameters, "info": info}).encode()


def _info(body: Txt2ImgBody, asked: GenerateRequest, pictures: Sequence[Picture], card: ModelCard) -> dict[str, Any]:
    """Return the fields of ``Processed.js`` in A1111's ``modules/processing.py``."""
    count, seeds = len(pictures), [picture.seed for picture in pictures]
    width, height = pictures[0].size
    return {
        "prompt": body.prompt,
        "all_prompts": [body.prompt] * count,
        "negative_prompt": body.negative_prompt,
        "all_negative_prompts": [body.negative_prompt] * count,
        "seed": seeds[0],
        "all_seeds": seeds,
        "subseed": -1,
        "all_subseeds": [-1] * count,
        "subseed_strength": 0,
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
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": None,
        "extra_generation_params": {},
        "index_of_first_image": 0,
        "infotexts": [read_text(picture.png).get(A1111_CHUNK, "") for picture in pictures],
        "styles": body.named_styles,
        "job_timestamp": time.strftime("%Y%m%d%H%M%S"),
        "clip_skip": asked.clip_skip + 1,
        "is_using_inpainting_conditioning": False,
        "version": f"imagegen {version('imagegen-core')}",
    }
