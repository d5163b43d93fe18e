"""What can be asked for, and the one place where an ask is checked.

`GenerateRequest` is the form requests usually arrive in. Workers accept any object with the same
attributes and turn it into a `ResolvedRequest`, in which nothing is left open, with `ResolvedRequest.of`.
"""

from __future__ import annotations

import math
import operator
import re
import reprlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import Any, Self

from pydantic import BaseModel, Field, PrivateAttr

from imagegen_core.errors import InvalidRequestError
from imagegen_core.styles import MAX_STRENGTH, LoraUse

_SIZE = re.compile(r"\s*([0-9]{1,6})\s*[xX]\s*([0-9]{1,6})\s*")
MAX_GUIDANCE = 100.0
"""The largest guidance scale, as ComfyUI's KSampler takes it (nodes.py)."""
VAE_REDUCTION = 8
"""One latent covers 8×8 pixels, so a picture's sides are multiples of it."""
_MAX_SIDE = 8192
_MAX_SEED = 2**63 - 1
_LAST_LEVEL = 1000  # above what any style has, which means its last
_FIELDS = {"style": "style_lora.style", "style level": "style_lora.level"}  # where the words of a message are others
_MAX_CHURN = _MAX_NOISE = 100.0  # as ComfyUI's samplers take them (comfy_extras/nodes_custom_sampler.py)
_MAX_NOISE_LEVEL = 1e6  # above every schedule's
_RANDOM_SEEDS = 2**32  # drawn seeds stay short enough to read aloud, and exact in JavaScript


class StyleLoraRequest(BaseModel):
    """Which style a picture is drawn in, and how strongly.

    Attributes:
        style: The style's id, or None for none.
        level: 0 is off; 1..N picks the style's strength presets.
    """

    style: str | None = None
    level: int = 0

    @classmethod
    def parse(cls, text: str) -> StyleLoraRequest:
        """Read ``NAME:LEVEL``, or ``NAME`` for the style's last level.

        Raises:
            InvalidRequestError: `text` is neither.
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
    """What a request asks of each denoising step, where its sampler takes it; None asks nothing.

    Attributes:
        eta: The share of fresh noise in a step, from 0 to 1: https://arxiv.org/abs/2010.02502, equation 16.
        s_churn: How much noise is added before a step and taken off in it, from 0 to 100:
            https://arxiv.org/abs/2206.00364, algorithm 2, for this and the rest.
        s_tmin: The lowest noise level at which `s_churn` adds any.
        s_tmax: The highest.
        s_noise: The standard deviation of the noise that is added, from 0 to 100.
    """

    eta: float | None = None
    s_churn: float | None = None
    s_tmin: float | None = None
    s_tmax: float | None = None
    s_noise: float | None = None

    @classmethod
    def of(cls, request: object) -> StepOptions:
        """Check those of a request.

        Raises:
            InvalidRequestError: A value is outside what it may be.
        """
        return cls(**{name: _number(name, getattr(request, name, None), high) for name, high in _HIGHEST.items()})

    def given(self) -> dict[str, float]:
        """Those that ask something."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


class GenerateRequest(BaseModel):
    """A picture to draw. Values are checked where they are used, so any worker refuses alike.

    Attributes:
        prompt: What the picture shows.
        size: ``WIDTHxHEIGHT`` in pixels, multiples of 8. Left out, it is the checkpoint's native size.
        num_inference_steps: Denoising steps, from 1.
        guidance_scale: Strength of the prompt, from 0 to 100; up to 1.0 the prompt alone is followed, above
            it classifier-free guidance runs the network twice a step.
        seed: 0 to 2**63 - 1; None draws one at random.
        style_lora: The style.
        negative_prompt: What the picture should not show; needs a guidance scale above 1.0.
        scheduler: A sampler's name, such as ``Euler a`` or ``EulerAncestralDiscreteScheduler``; ``checkpoint`` is the
            checkpoint's own. Left out, it is the configured one, LCM unless configured otherwise.
        clip_skip: Last layers of the text encoders to leave out, beyond those that the family always does, as
            diffusers counts them: 1 is A1111's "Clip skip: 2".
        schedule: The noise schedule's name, such as ``Karras`` or ``SGM Uniform``, or timesteps such as
            ``999, 749, 499, 249``; left out, it is the sampler's own. See `imagegen_core.schedules`.
        guidance_rescale: How far guidance is kept from washing the picture out, from 0 to 1; needs a guidance scale
            above 1.0. See https://arxiv.org/abs/2305.08891, section 3.4.
        eta: See `StepOptions`, for this and the rest; each is refused where the sampler has none.
        s_churn: See `StepOptions`.
        s_tmin: See `StepOptions`.
        s_tmax: See `StepOptions`.
        s_noise: See `StepOptions`.
    """

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

    # Never read from what a client sends: it names files.
    _loras: tuple[LoraUse, ...] = PrivateAttr(default=())

    @property
    def loras(self) -> tuple[LoraUse, ...]:
        """The LoRAs it is drawn with beside its style; see `with_loras`."""
        return self._loras

    def with_loras(self, loras: Iterable[LoraUse]) -> Self:
        """This request, drawn with `loras` beside its style."""
        copy = self.model_copy()
        copy._loras = tuple(loras)  # noqa: SLF001 - its own
        return copy

    @classmethod
    def given(cls, **fields: Any) -> GenerateRequest:
        """A request in which the fields that are None count as left out."""
        return cls(**{name: value for name, value in fields.items() if value is not None})


@dataclass(frozen=True, slots=True)
class Size:
    """A picture's extent in pixels; both sides are positive multiples of 8, at most 8192."""

    width: int
    height: int

    @classmethod
    def parse(cls, text: object) -> Size:
        """Read ``WIDTHxHEIGHT``.

        Raises:
            InvalidRequestError: `text` is anything else.
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
    """A checked request: the same values always mean the same picture, where a scheduler of None is the worker's."""

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

    @classmethod
    def of(cls, request: object, native_size: str) -> ResolvedRequest:
        """Check `request` and fill in what it leaves open.

        Args:
            request: A `GenerateRequest` or any object with (some of) its attributes.
            native_size: The size to use where the request names none.

        Raises:
            InvalidRequestError: A value is outside what it may be; the message names it.
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
    """The request's size, or None where it only carries the model's default."""
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
        if not abs(lora.strength) <= MAX_STRENGTH:  # which refuses NaN, too
            raise InvalidRequestError(
                f"Invalid strength {lora.strength:g} of the LoRA {lora.adapter_name!r}: expected a number from "
                f"-{MAX_STRENGTH:g} to {MAX_STRENGTH:g}"
            )
    return loras


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
    """`value` as a float; NaN where it is no number, infinite where it is an integer beyond all floats."""
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
    """`value` as an error message shows it: quoted, and no longer than a line."""
    return reprlib.repr(value)
