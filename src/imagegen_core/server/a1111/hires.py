"""A1111's hires fields as a request's second stage.

Source: ``calculate_target_resolution`` and ``sample_hr_pass`` in ``modules/processing.py`` of A1111 1.10.
"""

from __future__ import annotations

from typing import Any

from imagegen_core.errors import InvalidRequestError
from imagegen_core.images.upscaler import LANCZOS
from imagegen_core.request import VAE_REDUCTION, HiresOptions, Size, shown
from imagegen_core.request.checks import whole_number
from imagegen_core.request.hires import LATENT_MODES, MAX_SCALE
from imagegen_core.request.size import MAX_SIDE
from imagegen_core.server.a1111.prompt_syntax import check_negative_prompt, read_prompt
from imagegen_core.server.a1111.requests import Target, size_of
from imagegen_core.server.a1111.sampling import second_sampling_of
from imagegen_core.server.a1111.strength import second_strength_of
from imagegen_core.server.a1111.txt2img import LATENTS, Txt2ImgBody
from imagegen_core.server.context import ServerContext


def hires_of(body: Txt2ImgBody, context: ServerContext, target: Target) -> HiresOptions | None:
    """Return the second stage of a request; None if ``enable_hr`` is off.

    Raises:
        InvalidRequestError: A field has an invalid value.
    """
    if not body.enable_hr:
        return None
    if body.hr_cfg is not None and body.hr_cfg != body.cfg_scale:
        raise InvalidRequestError(
            f"Invalid hr_cfg {body.hr_cfg:g}: both stages have the same guidance here; give the cfg_scale, or leave "
            "hr_cfg out",
            "hr_cfg",
        )
    target.options.check_hires()
    steps, strength = second_strength_of(body, context, target)
    fields: dict[str, Any] = {
        **_enlargement(body, size_of(body, context, target)),
        **_prompts(body, context),
        **second_sampling_of(body, target.card, context.registry),
    }
    return HiresOptions(steps=steps, strength=strength, upscaler=_upscaler(body, context), fresh_noise=True, **fields)


def _upscaler(body: Txt2ImgBody, context: ServerContext) -> str | None:
    """Return the upscaler of the second stage. A1111's ``None`` is Lanczos."""
    if (mode := body.hr_upscaler.casefold()) in ("", *LATENT_MODES):
        return mode or None
    if mode in ("none", LANCZOS.name):
        return LANCZOS.name
    names = context.upscalers.names()
    if body.hr_upscaler not in names:
        raise InvalidRequestError(
            f"Invalid hr_upscaler {shown(body.hr_upscaler)}: expected one of {', '.join([*LATENTS, 'None', *names])}",
            "hr_upscaler",
        )
    return body.hr_upscaler


def _enlargement(body: Txt2ImgBody, first: Size) -> dict[str, Any]:
    """Return the scale or the size of the second stage, in whole latents."""
    width, height = (
        whole_number(field, getattr(body, field), high=MAX_SIDE) for field in ("hr_resize_x", "hr_resize_y")
    )
    if width == height == 0:
        if not 1 <= body.hr_scale <= MAX_SCALE:
            raise InvalidRequestError(
                f"Invalid hr_scale {body.hr_scale:g}: expected a number from 1 to {MAX_SCALE:g}", "hr_scale"
            )
        return {"scale": body.hr_scale}
    covering = (width, width * first.height // first.width), (height * first.width // first.height, height)
    if 0 in (width, height):
        sides = covering[0] if width else covering[1]
    else:
        sides = covering[0] if first.width * height < width * first.height else covering[1]
        if any((side - asked) // VAE_REDUCTION for side, asked in zip(sides, (width, height), strict=True)):
            raise InvalidRequestError(
                f"Invalid hr_resize_x and hr_resize_y {width}x{height}: the first stage has {first}, and other "
                "proportions would cut a part off; give one of them",
                "hr_resize_x",
            )
    size = "x".join(str(side // VAE_REDUCTION * VAE_REDUCTION) for side in sides)
    return {"size": str(Size.parse(size, "hr_resize_x"))}


def _prompts(body: Txt2ImgBody, context: ServerContext) -> dict[str, str | None]:
    """Return the prompts of the second stage; None is that of the first."""
    for field in ("hr_prompt", "hr_negative_prompt"):
        context.limits.check_length(getattr(body, field), field)
    check_negative_prompt(body.hr_negative_prompt)
    if not body.hr_prompt:
        return {"prompt": None, "negative_prompt": body.hr_negative_prompt or None}
    prompt, tags = read_prompt(body.hr_prompt)
    if tags != read_prompt(body.prompt)[1]:
        raise InvalidRequestError(
            "The LoRAs in hr_prompt are not those in prompt: name the same in both, because they draw both stages here",
            "hr_prompt",
        )
    return {"prompt": prompt, "negative_prompt": body.hr_negative_prompt or None}
