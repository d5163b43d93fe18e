"""The bodies of OpenAI's routes: OpenAI's fields, then this server's own, which its clients send by ``extra_body``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from imagegen_core.errors import InvalidRequestError
from imagegen_core.images.converting import Encoding
from imagegen_core.request import (
    GenerateRequest,
    HiresOptions,
    InpaintOptions,
    MicroConditioning,
    OutpaintOptions,
    StyleLoraRequest,
    Variation,
    shown,
)
from imagegen_core.server.body import Body
from imagegen_core.server.body_picture import BodyPicture

_HINTS = {  # OpenAI's features that this server lacks, with the values that need none of them
    "quality": ("auto", "standard", "low", "medium", "high"),  # the response's "auto" corrects it
    "style": ("natural",),
    "background": ("auto", "opaque"),
    "moderation": ("auto", "low"),
    "input_fidelity": ("low", "high"),
}
_AUTO = "auto"


class CommonBody(Body):
    """The fields of all routes that draw."""

    model_config = ConfigDict(extra="allow")  # plugins' parameters; `ServerContext.complete` refuses other fields

    prompt: str = ""
    model: str | None = None
    n: int = Field(default=1, ge=1, le=10)
    size: str | None = None
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Encoding | None = None
    output_compression: int | None = Field(default=None, ge=0, le=100)
    user: str | None = None
    safety_identifier: str | None = None
    stream: bool | None = None
    partial_images: int | None = Field(default=None, ge=0, le=3)

    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    seed: int | None = None
    negative_prompt: str | None = None
    scheduler: str | None = None
    schedule: str | None = None
    clip_skip: int | None = None
    guidance_rescale: float | None = None
    eta: float | None = None
    s_churn: float | None = None
    s_tmin: float | None = None
    s_tmax: float | None = None
    s_noise: float | None = None
    style_lora: StyleLoraRequest | None = None
    variation: Variation | None = None
    micro_conditioning: MicroConditioning | None = None
    hires: HiresOptions | None = None
    refiner: str | None = None
    switch_at: float | None = None

    @property
    def wanted_size(self) -> str | None:
        """The size, or None for OpenAI's ``auto``."""
        return None if self.size == _AUTO else self.size

    def request(self, **pictures: Any) -> GenerateRequest:
        """Return the request for the pictures.

        Args:
            pictures: The fields that replace the body's: the size, and the input pictures after they were read.

        Raises:
            InvalidRequestError: The body has a field of another route.
        """
        fields = {name: getattr(self, name, None) for name in GenerateRequest.model_fields}
        extra = self.model_extra or {}
        if elsewhere := next((name for name in extra if name in fields), None):
            raise InvalidRequestError(
                f"Unknown field {shown(elsewhere)} on this route: /v1/images/edits takes it, or leave it out", elsewhere
            )
        return GenerateRequest.given(**fields | {"size": self.wanted_size} | pictures).with_parameters(extra)

    def check(self) -> None:
        """Refuse features of OpenAI's models that this server lacks, instead of drawing another picture.

        Raises:
            InvalidRequestError: A field asks for such a feature.
        """
        for field, meant in _HINTS.items():
            value = getattr(self, field, None)
            if value is not None and value not in meant:
                raise InvalidRequestError(f"Invalid {field} {value[:64]!r}: expected {' or '.join(meant)}", field)


class ImagesBody(CommonBody):
    """The body of ``/v1/images/generations``."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": "a red circle on a blue background"}]})

    prompt: str
    quality: str | None = None
    style: str | None = None
    background: str | None = None
    moderation: str | None = None


class _PictureBody(CommonBody):
    """The fields of the routes that draw from a picture."""

    image: Annotated[Any, BodyPicture("image")]
    strength: float | None = None
    resize: str | None = None
    image_guidance_scale: float | None = None


class EditBody(_PictureBody):
    """The body of ``/v1/images/edits``.

    ``images`` is the list of OpenAI's JSON form, in place of ``image``.
    """

    prompt: str
    mask: Annotated[Any, BodyPicture("mask")] = None
    quality: str | None = None
    background: str | None = None
    moderation: str | None = None
    input_fidelity: str | None = None
    inpaint: InpaintOptions | None = None
    outpaint: OutpaintOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _with_image(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("images") is not None and given.get("image") is None:
            return {name: value for name, value in given.items() if name != "images"} | {"image": given["images"]}
        return given


class VariationBody(_PictureBody):
    """The body of ``/v1/images/variations``."""
