"""The check of requests: the only place that validates them.

Requests usually arrive as `GenerateRequest`. Workers accept any object with the same attributes. They convert it
with `ResolvedRequest.of` to a `ResolvedRequest`, in which every value is set.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace

from pydantic import BaseModel

from imagegen_core.errors import InvalidRequestError
from imagegen_core.parameter import Parameters
from imagegen_core.picture_files.input_picture import InputPicture
from imagegen_core.request.checks import MAX_SEED, number, real, shown, text, whole_number
from imagegen_core.request.generate import GenerateRequest
from imagegen_core.request.hires import HiresOptions
from imagegen_core.request.input_checks import PictureInputs
from imagegen_core.request.micro_conditioning import MicroConditioning
from imagegen_core.request.picture_options import InpaintOptions, OutpaintOptions
from imagegen_core.request.refinement import Refinement
from imagegen_core.request.size import Size
from imagegen_core.request.step_options import StepOptions
from imagegen_core.request.variation import Variation
from imagegen_core.styles import MAX_STRENGTH, LoraUse

MAX_GUIDANCE = 100.0
"""The largest guidance scale; the same as in ComfyUI's KSampler (nodes.py)."""
_RANDOM_SEEDS = 2**32  # random seeds are short enough to read aloud, and exact in JavaScript


@dataclass(frozen=True, slots=True)
class ResolvedRequest:
    """A validated request: equal values mean equal pictures. A scheduler of None means the worker's default."""

    prompt: str
    negative_prompt: str | None
    size: Size
    steps: int
    guidance_scale: float
    seed: int
    style: str | None
    style_level: int
    scheduler: str | None = None
    clip_skip: int = 0
    loras: tuple[LoraUse, ...] = ()
    schedule: str | None = None
    guidance_rescale: float = 0.0
    step_options: StepOptions = field(default_factory=StepOptions)
    parameters: Parameters = field(default_factory=Parameters, hash=False)
    image: InputPicture | None = None
    mask: InputPicture | None = None
    strength: float | None = None
    resize: str | None = None
    inpaint: InpaintOptions = field(default_factory=InpaintOptions)
    outpaint: OutpaintOptions = field(default_factory=OutpaintOptions)
    image_guidance_scale: float | None = None
    variation: Variation = field(default_factory=Variation)
    micro_conditioning: MicroConditioning = field(default_factory=MicroConditioning)
    hires: HiresOptions = field(default_factory=HiresOptions)
    refiner: str | None = None
    switch_at: float | None = None

    @property
    def second_stage(self) -> ResolvedRequest | None:
        """The request of the second stage at a larger size, or None; its picture is the first stage's.

        Raises:
            InvalidRequestError: The second size is too large.
        """
        hires = self.hires
        if not hires:
            return None
        own_schedule = hires.scheduler is not None and hires.schedule is None
        return replace(
            self,
            size=hires.second_size(self.size),
            steps=self.steps if hires.steps is None else hires.steps,
            strength=hires.strength,
            scheduler=hires.scheduler or self.scheduler,
            schedule=None if own_schedule else hires.schedule or self.schedule,
            prompt=self.prompt if hires.prompt is None else hires.prompt,
            negative_prompt=self.negative_prompt if hires.negative_prompt is None else hires.negative_prompt,
            image=None,
            resize=None,
            variation=self.variation if hires.fresh_noise else Variation(),
            hires=HiresOptions(),
        )

    @property
    def last_part(self) -> ResolvedRequest:
        """The request for the refiner's steps: without the fields that only the first steps use.

        Its style and LoRAs are left out, because they belong to the first model.
        """
        return replace(
            self,
            style=None,
            style_level=0,
            loras=(),
            image=None,
            mask=None,
            strength=None,
            resize=None,
            inpaint=InpaintOptions(),
            outpaint=OutpaintOptions(),
            image_guidance_scale=None,
            variation=Variation(),
            refiner=None,
        )

    @property
    def pictures(self) -> dict[str, InputPicture | None]:
        """The input pictures by their fields."""
        return {"image": self.image, "mask": self.mask}

    @classmethod
    def of(cls, request: object, native_size: str) -> ResolvedRequest:
        """Validate `request`, and fill in the missing values.

        Args:
            request: A `GenerateRequest` or any object with (some of) its attributes.
            native_size: The size for a request without one.

        Raises:
            InvalidRequestError: A value is out of range; the message names its field.
        """
        style, level = _style(request)
        refinement = Refinement.of(request)
        inputs = PictureInputs.of(request)
        size = _given_size(request) or inputs.own_size()
        negative, scheduler, schedule = (
            getattr(request, name, None) for name in ("negative_prompt", "scheduler", "schedule")
        )
        return cls(
            prompt=text("prompt", getattr(request, "prompt", None)),
            negative_prompt=None if negative is None else text("negative_prompt", negative),
            size=Size.parse(native_size if size is None else size),
            steps=whole_number("num_inference_steps", getattr(request, "num_inference_steps", 4), low=1),
            guidance_scale=_guidance(getattr(request, "guidance_scale", 1.0)),
            seed=_seed(getattr(request, "seed", None)),
            style=style,
            style_level=level,
            scheduler=None if scheduler is None else text("scheduler", scheduler),
            clip_skip=whole_number("clip_skip", getattr(request, "clip_skip", None) or 0),
            loras=_loras(request),
            schedule=None if schedule is None else text("schedule", schedule),
            guidance_rescale=number("guidance_rescale", getattr(request, "guidance_rescale", None), high=1.0) or 0.0,
            step_options=StepOptions.of(request),
            parameters=_parameters(request),
            image=inputs.image,
            mask=inputs.mask,
            strength=inputs.strength,
            resize=inputs.resize,
            inpaint=inputs.inpaint,
            outpaint=inputs.outpaint,
            image_guidance_scale=inputs.image_guidance_scale,
            variation=Variation.of(getattr(request, "variation", None)),
            micro_conditioning=MicroConditioning.of(getattr(request, "micro_conditioning", None)),
            hires=_hires(request, inputs, refinement),
            refiner=refinement.refiner,
            switch_at=refinement.switch_at,
        )


def check_request(request: object) -> ResolvedRequest:
    """Check a request before its model is known; 8x8 stands for the native size.

    Raises:
        InvalidRequestError: No model could draw it.
    """
    return ResolvedRequest.of(request, native_size="8x8")


def with_counted_seeds(request: GenerateRequest, count: int) -> list[GenerateRequest]:
    """Repeat a request with seeds that count up, from 0 again after the largest.

    Raises:
        InvalidRequestError: No model could draw it.
    """
    first = check_request(request).seed
    return [request.model_copy(update={"seed": (first + number) % (MAX_SEED + 1)}) for number in range(count)]


def _given_size(request: object) -> object:
    """Return the request's size, or None if it is only the class's default."""
    if isinstance(request, BaseModel) and "size" not in request.model_fields_set:
        return None
    return getattr(request, "size", None)


def _hires(request: object, inputs: PictureInputs, refinement: Refinement) -> HiresOptions:
    hires = HiresOptions.of(getattr(request, "hires", None))
    if hires and refinement.refiner is not None:
        raise InvalidRequestError(
            "hires draws a second stage, and a refiner the end of the only one: leave hires out, or set refiner to ''",
            "refiner",
        )
    if hires and (inputs.mask is not None or inputs.outpaint):
        raise InvalidRequestError(
            "hires enlarges the whole picture, and a mask or outpaint keeps a part of it: leave one of them out",
            "hires",
        )
    return hires


def _style(request: object) -> tuple[str | None, int]:
    wanted = getattr(request, "style_lora", None)
    style = getattr(wanted, "style", None)
    level = whole_number("style level", getattr(wanted, "level", 0))
    return (None, 0) if style is None or level == 0 else (text("style", style), level)


def _loras(request: object) -> tuple[LoraUse, ...]:
    loras: tuple[LoraUse, ...] = tuple(getattr(request, "loras", None) or ())
    for lora in loras:
        if not abs(lora.strength) <= MAX_STRENGTH:  # this form also refuses NaN
            raise InvalidRequestError(
                f"Invalid strength {lora.strength:g} of the LoRA {lora.adapter_name!r}: expected a number from "
                f"-{MAX_STRENGTH:g} to {MAX_STRENGTH:g}"
            )
    return loras


def _parameters(request: object) -> Parameters:
    parameters = getattr(request, "parameters", None) or {}
    return parameters if isinstance(parameters, Parameters) else Parameters(parameters)


def _guidance(value: object) -> float:
    number = real(value)
    if 0 <= number <= MAX_GUIDANCE:
        return number
    raise InvalidRequestError(
        f"Invalid guidance_scale {shown(value)}: expected a number from 0 to {MAX_GUIDANCE:g}, such as 1.0 for LCM "
        "models or 7.5",
        "guidance_scale",
    )


def _seed(value: object) -> int:
    if value is None:
        return secrets.randbelow(_RANDOM_SEEDS)
    return whole_number("seed", value, high=MAX_SEED)
