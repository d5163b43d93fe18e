"""The request body of A1111's ``txt2img``, with a check for unsupported features."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any

from pydantic import ConfigDict, FailFast, Field

from imagegen_core.errors import InvalidRequestError
from imagegen_core.request import shown
from imagegen_core.server.a1111.scripts import check_scripts
from imagegen_core.server.body import Body

MOST_PICTURES = 16
_MOST_STYLES = 64
_LONGEST_NAME = 256  # characters
_LONGEST_LIST = 10_000  # characters; a list of timesteps can replace a schedule's name
# Unsupported features, with the values that leave them off.
_UNASKED: dict[str, tuple[Any, ...]] = {
    "enable_hr": (False,),
    "subseed_strength": (0,),
    "seed_resize_from_h": (0, -1),
    "seed_resize_from_w": (0, -1),
    "restore_faces": (False,),
    "tiling": (False,),
    "script_name": ("", "None"),
    "refiner_checkpoint": ("", "None", "none"),
    "s_min_uncond": (0,),
    "firstpass_image": ("",),
    "infotext": ("",),
    "disable_extra_networks": (False,),
}


class Txt2ImgBody(Body):
    """A1111's fields with an effect here; `check` refuses unsupported features, and ignores unknown fields.

    Sources: ``StableDiffusionProcessingTxt2Img`` in ``modules/processing.py``, and ``modules/api/models.py``.
    SD.Next adds ``clip_skip``.
    """

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"examples": [{"prompt": "a red circle on a blue background", "steps": 4, "cfg_scale": 1}]},
    )

    prompt: str = ""
    negative_prompt: str = ""
    styles: Annotated[
        list[Annotated[str, Field(max_length=_LONGEST_NAME)] | None],
        FailFast(),
        Field(default_factory=list, max_length=_MOST_STYLES),
    ]
    seed: int = -1
    sampler_name: str | None = Field(default=None, max_length=_LONGEST_NAME)
    sampler_index: str | None = Field(default=None, max_length=_LONGEST_NAME)
    scheduler: str | None = Field(default=None, max_length=_LONGEST_LIST)
    batch_size: int = Field(default=1, ge=1, le=MOST_PICTURES)
    n_iter: int = Field(default=1, ge=1, le=MOST_PICTURES)
    steps: int | None = None
    cfg_scale: float | None = None
    eta: float | None = None
    s_churn: float | None = None
    s_tmin: float | None = None
    s_tmax: float | None = None
    s_noise: float | None = None
    width: int | None = None
    height: int | None = None
    clip_skip: int | None = None
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
        extra = self.model_extra or {}
        for field, unasked in _UNASKED.items():
            if field in extra and extra[field] not in unasked and field not in parameters:
                value = extra[field] if isinstance(extra[field], str) else shown(extra[field])
                raise InvalidRequestError(f"{field}={value[:64]!r} is nothing this server does: leave it out", field)
        if (count := self.batch_size * self.n_iter) > MOST_PICTURES:
            raise InvalidRequestError(
                f"Invalid n_iter {shown(self.n_iter)}: {count} pictures, and this server draws at most "
                f"{MOST_PICTURES} pictures at a time",
                "n_iter",
            )
        check_scripts(self.alwayson_scripts)
