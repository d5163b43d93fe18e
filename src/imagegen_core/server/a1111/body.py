"""The fields common to A1111's ``txt2img`` and ``img2img``, with a check for unsupported features."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, ConfigDict, FailFast, Field

from imagegen_core.errors import InvalidRequestError
from imagegen_core.request import shown
from imagegen_core.server.a1111.scripts import check_scripts
from imagegen_core.server.body import Body

MOST_PICTURES = 16
LONGEST_NAME = 256  # characters
_MOST_STYLES = 64
_LONGEST_LIST = 10_000  # characters; a list of timesteps can replace a schedule's name


def _whole(value: object) -> object:
    """Cut the fraction of a number off, as A1111's pydantic 1 does for whole numbers."""
    return int(value) if isinstance(value, float) and math.isfinite(value) else value


Whole = Annotated[int, BeforeValidator(_whole)]
"""A whole number; clients also send numbers such as 12.5, and A1111 takes 12."""


class DrawingBody(Body):
    """A1111's fields with an effect here; `check` refuses unsupported features, and ignores unknown fields.

    Sources: ``StableDiffusionProcessing`` in ``modules/processing.py``, and ``modules/api/models.py``.
    SD.Next adds ``clip_skip``.
    """

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"examples": [{"prompt": "a red circle on a blue background", "steps": 4, "cfg_scale": 1}]},
    )

    UNASKED: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "restore_faces": (False,),
        "tiling": (False,),
        "script_name": ("", "None"),
        "s_min_uncond": (0,),
        "infotext": ("",),
        "disable_extra_networks": (False,),
    }
    """Unsupported features, with the values that leave them off."""

    prompt: str = ""
    negative_prompt: str = ""
    styles: Annotated[
        list[Annotated[str, Field(max_length=LONGEST_NAME)] | None],
        FailFast(),
        Field(default_factory=list, max_length=_MOST_STYLES),
    ]
    seed: Whole = -1
    subseed: Whole = -1
    subseed_strength: float = 0
    seed_resize_from_h: Whole = -1
    seed_resize_from_w: Whole = -1
    sampler_name: str | None = Field(default=None, max_length=LONGEST_NAME)
    sampler_index: str | None = Field(default=None, max_length=LONGEST_NAME)
    scheduler: str | None = Field(default=None, max_length=_LONGEST_LIST)
    batch_size: Whole = Field(default=1, ge=1, le=MOST_PICTURES)
    n_iter: Whole = Field(default=1, ge=1, le=MOST_PICTURES)
    steps: Whole | None = None
    cfg_scale: float | None = None
    eta: float | None = None
    s_churn: float | None = None
    s_tmin: float | None = None
    s_tmax: float | None = None
    s_noise: float | None = None
    width: Whole | None = None
    height: Whole | None = None
    denoising_strength: float = 0.75
    clip_skip: Whole | None = None
    refiner_checkpoint: str | None = Field(default=None, max_length=LONGEST_NAME)
    refiner_switch_at: float | None = None
    override_settings: dict[str, Any] = Field(default_factory=dict)
    alwayson_scripts: dict[str, Any] = Field(default_factory=dict)
    send_images: bool = True

    @property
    def sampler(self) -> str | None:
        """The sampler's name, from the newer of its two fields if present."""
        return self.sampler_name or self.sampler_index or None

    @property
    def named_styles(self) -> list[str]:
        """The styles without A1111's placeholders for none."""
        return [style for style in self.styles if style and style != "None"]

    @property
    def parameters(self) -> dict[str, Any]:
        """The fields of the response; scripts are left out, because they are all off."""
        return self.model_dump(exclude={"alwayson_scripts", *(self.model_extra or ())})

    @property
    def details(self) -> dict[str, Any]:
        """The further values of A1111's ``extra_generation_params``, by its names; None is left out."""
        return {}

    def declared(self, parameters: Collection[str]) -> dict[str, Any]:
        """Return the values of plugins' parameters."""
        return {name: value for name, value in (self.model_extra or {}).items() if name in parameters}

    def check(self, parameters: Collection[str] = ()) -> None:
        """Refuse a request for features that this server lacks.

        Args:
            parameters: The names of plugins' parameters, which may add such a feature.

        Raises:
            InvalidRequestError: The request uses such a feature; the message names the field or the script.
        """
        refuse_asked(self.UNASKED, self.model_extra or {}, parameters)
        if (count := self.batch_size * self.n_iter) > MOST_PICTURES:
            raise InvalidRequestError(
                f"Invalid n_iter {shown(self.n_iter)}: {count} pictures, and this server draws at most "
                f"{MOST_PICTURES} pictures at a time",
                "n_iter",
            )
        check_scripts(self.alwayson_scripts)


def refuse_asked(
    unasked: Mapping[str, tuple[Any, ...]], given: Mapping[str, Any], parameters: Collection[str] = ()
) -> None:
    """Refuse unsupported features.

    Args:
        unasked: The features, with the values that leave them off.
        given: The fields of a request.
        parameters: The names of fields to skip.

    Raises:
        InvalidRequestError: A field has another value.
    """
    for field, values in unasked.items():
        if field in given and given[field] not in values and field not in parameters:
            value = given[field] if isinstance(given[field], str) else shown(given[field])
            raise InvalidRequestError(f"{field}={value[:64]!r} is nothing this server does: leave it out", field)
