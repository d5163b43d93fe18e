"""A1111's denoising strength as steps and a strength of this server's requests."""

from __future__ import annotations

from imagegen_core.errors import InvalidRequestError
from imagegen_core.request.checks import whole_number
from imagegen_core.server.a1111.body import DrawingBody
from imagegen_core.server.a1111.requests import Target, steps_of
from imagegen_core.server.a1111.step_count import StepCount
from imagegen_core.server.a1111.txt2img import Txt2ImgBody
from imagegen_core.server.context import ServerContext


def strength_of(body: DrawingBody, context: ServerContext, target: Target) -> tuple[int, float]:
    """Return the steps and the strength of ``img2img``.

    Raises:
        InvalidRequestError: The steps or the denoising strength are out of range.
    """
    is_fixed = target.options.all_input_pictures["img2img_fix_steps"]
    return _counted(body, steps_of(body, context, target), context, target, is_fixed=is_fixed)


def second_strength_of(body: Txt2ImgBody, context: ServerContext, target: Target) -> tuple[int, float]:
    """Return the steps and the strength of the second stage of ``txt2img``.

    Raises:
        InvalidRequestError: The steps or the denoising strength are out of range.
    """
    steps = body.hr_second_pass_steps or steps_of(body, context, target)
    return _counted(body, steps, context, target, is_fixed=True)


def _counted(
    body: DrawingBody, steps: int, context: ServerContext, target: Target, *, is_fixed: bool
) -> tuple[int, float]:
    denoising, most = body.denoising_strength, context.settings.max_steps
    whole_number("steps", steps, low=1, high=most)
    if not 0 <= denoising <= 1:
        raise InvalidRequestError(
            f"Invalid denoising_strength {denoising:g}: expected a number from 0 to 1", "denoising_strength"
        )
    count = (StepCount.of_all if is_fixed else StepCount.of_part)(steps, denoising)
    if count.steps > most:
        raise InvalidRequestError(
            f"Invalid denoising_strength {denoising:g}: its {steps} steps are the last of {count.steps}, and this "
            f"server takes up to {most}; give fewer steps or more strength",
            "denoising_strength",
        )
    return count.steps, count.strength(rounds_up=target.rounds_up)
