"""The part of a request that A1111's ``txt2img`` and ``img2img`` have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from imagegen_core.errors import InvalidRequestError
from imagegen_core.hosting.model_card import ModelCard
from imagegen_core.modes import Mode
from imagegen_core.request import GenerateRequest, Size, StyleLoraRequest
from imagegen_core.server.a1111.body import DrawingBody
from imagegen_core.server.a1111.callers import named_card, options_with
from imagegen_core.server.a1111.options import Options
from imagegen_core.server.a1111.prompt_syntax import LoraTag, check_negative_prompt, read_prompt
from imagegen_core.server.a1111.refiner import refiner_of
from imagegen_core.server.a1111.sampling import sampling_of
from imagegen_core.server.context import ServerContext


@dataclass(frozen=True, slots=True)
class Target:
    """The mode that draws a request.

    Attributes:
        mode: The mode.
        card: The card of its model, with the name from ``sd-models``.
        options: The caller's options, with the request's overrides.
    """

    mode: Mode
    card: ModelCard
    options: Options

    @classmethod
    def of(cls, body: DrawingBody, context: ServerContext, caller: str) -> Self:
        """Find the mode of a request.

        Raises:
            InvalidRequestError: An option is unknown, or its value is unsupported.
        """
        clip_skip = {} if body.clip_skip is None else {"CLIP_stop_at_last_layers": body.clip_skip}
        options = options_with(context, caller, clip_skip | body.override_settings)
        mode = context.mode_manager.modes.find(options.mode)
        return cls(mode, named_card(context, mode), options)

    @property
    def rounds_up(self) -> bool:
        """Whether the drawn part of the steps is rounded up; see `StepCount.strength`."""
        own = self.card.own_scheduler
        return own is not None and own.is_flow

    def default(self, context: ServerContext) -> GenerateRequest:
        """Return a request with the mode's and the server's defaults."""
        return context.complete(GenerateRequest(prompt=""), self.mode)


def common_fields(body: DrawingBody, context: ServerContext, target: Target) -> dict[str, Any]:
    """Return fields of a `GenerateRequest`, all but the size, the seeds and the pictures; None is a missing field.

    Raises:
        InvalidRequestError: A field has an invalid value.
    """
    for field, text in (("prompt", body.prompt), ("negative_prompt", body.negative_prompt)):
        context.limits.check_length(text, field)
    prompt, tags = read_prompt(body.prompt)
    check_negative_prompt(body.negative_prompt)
    return {
        "prompt": prompt,
        "negative_prompt": body.negative_prompt or None,
        "seed": None if body.seed == -1 else body.seed,
        "num_inference_steps": body.steps,
        "guidance_scale": body.cfg_scale,
        **sampling_of(body, target.card, context.registry),
        "clip_skip": target.options.clip_stop_at_last_layers - 1,
        **refiner_of(body, context, target.mode),
        "style_lora": _style([*tags, *map(LoraTag, body.named_styles)], target.card),
    }


def size_of(body: DrawingBody, context: ServerContext, target: Target) -> Size:
    """Return the size of a request's picture; a missing side is that of the mode or the model.

    Raises:
        InvalidRequestError: A side is no multiple of 8, or out of range.
        NotReadyError: The model is not loaded, so its native size is unknown.
    """
    width, height = body.width, body.height
    if width is None or height is None:
        native = context.size_of(target.default(context), target.mode)
        width, height = native.width if width is None else width, native.height if height is None else height
    return Size.parse(f"{width}x{height}")


def steps_of(body: DrawingBody, context: ServerContext, target: Target) -> int:
    """Return the number of steps; the default is that of the mode or the server."""
    return target.default(context).num_inference_steps if body.steps is None else body.steps


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
