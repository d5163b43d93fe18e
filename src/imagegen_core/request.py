"""Generation requests, and the only place that validates them.

Requests usually arrive as `GenerateRequest`. Workers accept any object with the same attributes. They convert it
with `ResolvedRequest.of` to a `ResolvedRequest`, in which every value is set.
"""

from __future__ import annotations

import math
import operator
import re
import reprlib
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from imagegen_core.errors import InvalidRequestError
from imagegen_core.parameter import Parameters
from imagegen_core.styles import MAX_STRENGTH, LoraUse

_SIZE = re.compile(r"\s*([0-9]{1,6})\s*[xX]\s*([0-9]{1,6})\s*")
MAX_GUIDANCE = 100.0
"""The largest guidance scale; the same as in ComfyUI's KSampler (nodes.py)."""
VAE_REDUCTION = 8
"""A latent covers 8×8 pixels, so width and height are multiples of 8."""
_MAX_SIDE = 8192
_MAX_SEED = 2**63 - 1
_LAST_LEVEL = 1000  # above the last level of any style; it selects the last level
_FIELDS = {"style": "style_lora.style", "style level": "style_lora.level"}  # field names, if messages use other words
_MAX_CHURN = _MAX_NOISE = 100.0  # as in ComfyUI's samplers (comfy_extras/nodes_custom_sampler.py)
_MAX_NOISE_LEVEL = 1e6  # above the noise levels of all schedules
_RANDOM_SEEDS = 2**32  # random seeds are short enough to read aloud, and exact in JavaScript


class StyleLoraRequest(BaseModel):
    """The style of a picture and its level.

    Attributes:
        style: The style's id, or None for no style.
        level: 0 is off; 1..N selects one of the style's strengths, and a level above N means N.
    """

    model_config = ConfigDict(extra="forbid")

    style: str | None = None
    level: int = 0

    @classmethod
    def parse(cls, text: str) -> StyleLoraRequest:
        """Parse ``NAME:LEVEL``, or ``NAME`` for the style's last level.

        Raises:
            InvalidRequestError: `text` has neither form.
        """
        name, colon, level = text.rpartition(":")
        if not colon:
            return cls(style=text, level=_LAST_LEVEL)
        if not name or not level.isdecimal():
            raise InvalidRequestError(f"Invalid style {text!r}: expected NAME or NAME:LEVEL, with a level from 0")
        return cls(style=name, level=int(level))


_HIGHEST = {
    "eta": 1.0,
    "s_churn": _MAX_CHURN,
    "s_tmin": _MAX_NOISE_LEVEL,
    "s_tmax": _MAX_NOISE_LEVEL,
    "s_noise": _MAX_NOISE,
}


@dataclass(frozen=True, slots=True)
class StepOptions:
    """Options for each denoising step, if the sampler supports them; None leaves an option unset.

    Attributes:
        eta: The share of fresh noise in a step, from 0 to 1: https://arxiv.org/abs/2010.02502, equation 16.
        s_churn: The amount of noise to add before a step and remove in it, from 0 to 100. For this and the
            following options see https://arxiv.org/abs/2206.00364, algorithm 2.
        s_tmin: The lowest noise level for `s_churn` to add noise.
        s_tmax: The highest noise level for `s_churn` to add noise.
        s_noise: The standard deviation of the added noise, from 0 to 100.
    """

    eta: float | None = None
    s_churn: float | None = None
    s_tmin: float | None = None
    s_tmax: float | None = None
    s_noise: float | None = None

    @classmethod
    def of(cls, request: object) -> StepOptions:
        """Validate a request's step options.

        Raises:
            InvalidRequestError: A value is out of range.
        """
        return cls(**{name: _number(name, getattr(request, name, None), high) for name, high in _HIGHEST.items()})

    def given(self) -> dict[str, float]:
        """Return the options that are set."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


class GenerateRequest(BaseModel):
    """A request for a picture. Each worker validates it on use, with the same rules.

    Attributes:
        prompt: Description of the picture.
        size: ``WIDTHxHEIGHT`` in pixels, multiples of 8; the default is the checkpoint's native size.
        num_inference_steps: Number of denoising steps, from 1.
        guidance_scale: Strength of the prompt, from 0 to 100. Values above 1.0 use classifier-free guidance, which
            runs the network twice per step; values up to 1.0 use only the prompt.
        seed: 0 to 2**63 - 1; None chooses a random seed.
        style_lora: The style.
        negative_prompt: Description of unwanted content; needs a guidance scale above 1.0.
        scheduler: A sampler's name, such as ``Euler a`` or ``EulerAncestralDiscreteScheduler``, or ``checkpoint`` for
            the checkpoint's own. The default is the configured sampler, else LCM (for EDM checkpoints, their own).
        clip_skip: Number of last text encoder layers to skip, in addition to the family's usual number. diffusers
            counts the same way: 1 is A1111's "Clip skip: 2".
        schedule: The noise schedule's name, such as ``Karras`` or ``SGM Uniform``, or timesteps such as
            ``999, 749, 499, 249``. The default is the sampler's own. See `imagegen_core.schedules`.
        guidance_rescale: Correction of overexposure by guidance, from 0 to 1; needs a guidance scale above 1.0.
            See https://arxiv.org/abs/2305.08891, section 3.4.
        eta: See `StepOptions`, also for the following; refused if the sampler does not support it.
        s_churn: See `StepOptions`.
        s_tmin: See `StepOptions`.
        s_tmax: See `StepOptions`.
        s_noise: See `StepOptions`.
    """

    model_config = ConfigDict(extra="forbid")

    prompt: str
    size: str = "1024x1024"
    num_inference_steps: int = 4
    guidance_scale: float = 1.0
    seed: int | None = None
    style_lora: StyleLoraRequest = Field(default_factory=StyleLoraRequest)
    negative_prompt: str | None = None
    scheduler: str | None = None
    clip_skip: int = 0
    schedule: str | None = None
    guidance_rescale: float = 0.0
    eta: float | None = None
    s_churn: float | None = None
    s_tmin: float | None = None
    s_tmax: float | None = None
    s_noise: float | None = None

    # A private attribute, because it names files: clients must not be able to set it.
    _loras: tuple[LoraUse, ...] = PrivateAttr(default=())
    _parameters: Parameters = PrivateAttr(default_factory=Parameters)

    @property
    def loras(self) -> tuple[LoraUse, ...]:
        """LoRAs in addition to the style; see `with_loras`."""
        return self._loras

    def with_loras(self, loras: Iterable[LoraUse]) -> Self:
        """Return a copy of this request with `loras` in addition to its style."""
        copy = self.model_copy()
        copy._loras = tuple(loras)  # noqa: SLF001 - an attribute of this class
        return copy

    @property
    def parameters(self) -> Parameters:
        """The values of the parameters that plugins declare; see `with_parameters`."""
        return self._parameters

    def with_parameters(self, given: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> Self:
        """Return a copy of this request with values of plugins' parameters, instead of its own.

        Args:
            given: The values by name.
            defaults: The defaults of the declared parameters; imagegen fills them in before it draws.
        """
        copy = self.model_copy()
        copy._parameters = Parameters(given, defaults)  # noqa: SLF001 - an attribute of this class
        return copy

    @classmethod
    def given(cls, **fields: Any) -> GenerateRequest:
        """Create a request; fields with the value None keep their defaults."""
        return cls(**{name: value for name, value in fields.items() if value is not None})


@dataclass(frozen=True, slots=True)
class Size:
    """A picture's size in pixels; width and height are positive multiples of 8, at most 8192."""

    width: int
    height: int

    @classmethod
    def parse(cls, text: object) -> Size:
        """Parse ``WIDTHxHEIGHT``.

        Raises:
            InvalidRequestError: `text` has another form, or is not a valid size.
        """
        match = _SIZE.fullmatch(text) if isinstance(text, str) else None
        if match:
            size = cls(int(match[1]), int(match[2]))
            if all(0 < side <= _MAX_SIDE and side % VAE_REDUCTION == 0 for side in (size.width, size.height)):
                return size
        limit = f", at most {_MAX_SIDE}x{_MAX_SIDE}" if match else ""
        raise InvalidRequestError(
            f"Invalid size {shown(text)}: expected WIDTHxHEIGHT in pixels, multiples of 8, such as 1024x1024{limit}",
            "size",
        )

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


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
        size = _given_size(request)
        negative, scheduler, schedule = (
            getattr(request, name, None) for name in ("negative_prompt", "scheduler", "schedule")
        )
        return cls(
            prompt=_text("prompt", getattr(request, "prompt", None)),
            negative_prompt=None if negative is None else _text("negative_prompt", negative),
            size=Size.parse(native_size if size is None else size),
            steps=_whole_number("num_inference_steps", getattr(request, "num_inference_steps", 4), low=1),
            guidance_scale=_guidance(getattr(request, "guidance_scale", 1.0)),
            seed=_seed(getattr(request, "seed", None)),
            style=style,
            style_level=level,
            scheduler=None if scheduler is None else _text("scheduler", scheduler),
            clip_skip=_whole_number("clip_skip", getattr(request, "clip_skip", None) or 0),
            loras=_loras(request),
            schedule=None if schedule is None else _text("schedule", schedule),
            guidance_rescale=_number("guidance_rescale", getattr(request, "guidance_rescale", None), high=1.0) or 0.0,
            step_options=StepOptions.of(request),
            parameters=_parameters(request),
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
    return [request.model_copy(update={"seed": (first + number) % (_MAX_SEED + 1)}) for number in range(count)]


def _given_size(request: object) -> object:
    """Return the request's size, or None if it is only the class's default."""
    if isinstance(request, BaseModel) and "size" not in request.model_fields_set:
        return None
    return getattr(request, "size", None)


def _style(request: object) -> tuple[str | None, int]:
    wanted = getattr(request, "style_lora", None)
    style = getattr(wanted, "style", None)
    level = _whole_number("style level", getattr(wanted, "level", 0))
    return (None, 0) if style is None or level == 0 else (_text("style", style), level)


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


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidRequestError(f"Invalid {name} {shown(value)}: expected text", _FIELDS.get(name, name))
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            f"Invalid {name} {shown(value)}: its character {error.start + 1} is a lone surrogate, half of a character; "
            "send text that is valid Unicode",
            _FIELDS.get(name, name),
        ) from None
    return value


def _whole_number(name: str, value: object, low: int = 0, high: int | None = None) -> int:
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or number < low or (high is not None and number > high):
        span = f"from {low}" if high is None else f"from {low} to {high}"
        raise InvalidRequestError(
            f"Invalid {name} {shown(value)}: expected a whole number {span}", _FIELDS.get(name, name)
        )
    return number


def _guidance(value: object) -> float:
    number = _real(value)
    if 0 <= number <= MAX_GUIDANCE:
        return number
    raise InvalidRequestError(
        f"Invalid guidance_scale {shown(value)}: expected a number from 0 to {MAX_GUIDANCE:g}, such as 1.0 for LCM "
        "models or 7.5",
        "guidance_scale",
    )


def _number(name: str, value: object, high: float) -> float | None:
    if value is None:
        return None
    number = _real(value)
    if 0 <= number <= high:
        return number
    raise InvalidRequestError(f"Invalid {name} {shown(value)}: expected a number from 0 to {high:g}", name)


def _real(value: object) -> float:
    """Convert `value` to a float: NaN if it is not a number, infinity if it is an integer too large for a float."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _seed(value: object) -> int:
    if value is None:
        return secrets.randbelow(_RANDOM_SEEDS)
    return _whole_number("seed", value, high=_MAX_SEED)


def shown(value: object) -> str:
    """Format `value` for an error message: quoted, and at most one line."""
    return reprlib.repr(value)
