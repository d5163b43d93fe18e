"""The request body of A1111's ``img2img``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, FailFast, Field

from imagegen_core.errors import InvalidRequestError
from imagegen_core.request import shown
from imagegen_core.request.picture_options import MAX_BLUR
from imagegen_core.server.a1111.body import MOST_PICTURES, DrawingBody, Whole

FILLS = ("surroundings", "original", "noise", "zeros")
"""This server's names for ``inpainting_fill`` 0 to 3."""
RESIZES = ("stretch", "crop", "pad", "latent")
"""This server's names for ``resize_mode`` 0 to 3."""
_LATENT = RESIZES.index("latent")
_FILLS_SHOWN = ("fill", None, "latent noise", "latent nothing")  # in A1111's text
_NEUTRAL_IMAGE_CFG = (0, 1.5)  # the values that clients send for every checkpoint


class Img2ImgBody(DrawingBody):
    """A1111's fields of ``img2img``.

    Source: ``StableDiffusionProcessingImg2Img`` in ``modules/processing.py``, with its defaults.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "a red circle", "init_images": ["iVBORw0KGgo="]}]}
    )

    UNASKED: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **DrawingBody.UNASKED,
        "enable_hr": (False,),
        "initial_noise_multiplier": (1,),
        "latent_mask": ("",),
        "mask_round": (True,),
    }

    init_images: Annotated[list[str], FailFast(), Field(default_factory=list, max_length=MOST_PICTURES)]
    resize_mode: Whole = Field(default=0, ge=0, lt=len(RESIZES))
    image_cfg_scale: float | None = None
    mask: str = ""
    mask_blur: Whole | None = Field(default=None, ge=0, le=MAX_BLUR)
    mask_blur_x: Whole = Field(default=4, ge=0, le=MAX_BLUR)
    mask_blur_y: Whole = Field(default=4, ge=0, le=MAX_BLUR)
    inpainting_fill: Whole = Field(default=0, ge=0, lt=len(FILLS))
    inpaint_full_res: bool = True
    inpaint_full_res_padding: Whole = 0
    inpainting_mask_invert: Whole = Field(default=0, ge=0, le=1)
    include_init_images: bool = False

    @property
    def blur(self) -> int:
        """The standard deviation of the mask's blur in pixels."""
        return self.mask_blur_x if self.mask_blur is None else self.mask_blur

    @property
    def image_guidance_scale(self) -> float | None:
        """The strength of the image for instruct-pix2pix; None for a value that clients send for every checkpoint."""
        return None if self.image_cfg_scale in _NEUTRAL_IMAGE_CFG else self.image_cfg_scale

    @property
    def parameters(self) -> dict[str, Any]:
        """See `DrawingBody.parameters`; the pictures are null unless ``include_init_images`` asks for them."""
        hidden: dict[str, Any] = {} if self.include_init_images else {"init_images": None, "mask": None}
        return super().parameters | hidden

    @property
    def details(self) -> dict[str, Any]:
        """See `DrawingBody.details`, and ``StableDiffusionProcessingImg2Img.init``."""
        strength = {"Denoising strength": self.denoising_strength}
        if not self.mask:
            return strength
        return strength | {
            "Mask mode": "Inpaint not masked" if self.inpainting_mask_invert else None,
            "Mask blur": self.blur or None,
            "Inpaint area": "Only masked" if self.inpaint_full_res else None,
            "Masked area padding": self.inpaint_full_res_padding if self.inpaint_full_res else None,
            "Masked content": _FILLS_SHOWN[self.inpainting_fill],
        }

    def resize(self, *, masked: bool) -> str:
        """Return this server's name of the resize mode.

        With ``inpaint_full_res``, A1111 cuts the masked part out of the image, and no mode has an effect.
        """
        return RESIZES[0 if masked and self.inpaint_full_res else self.resize_mode]

    def inpaint(self) -> dict[str, Any]:
        """Return the options of this server's inpainting."""
        return {
            "fill": FILLS[self.inpainting_fill],
            "blur": float(self.blur),
            "only_masked": self.inpaint_full_res,
            "padding": self.inpaint_full_res_padding,
            "invert": bool(self.inpainting_mask_invert),
        }

    def check(self, parameters: Collection[str] = ()) -> None:
        """See `DrawingBody.check`."""
        super().check(parameters)
        if not self.init_images:
            raise InvalidRequestError(
                "There is no image in init_images: send one as base64, or use txt2img", "init_images"
            )
        if (count := len(self.init_images)) > 1 and count > self.batch_size:
            raise InvalidRequestError(
                f"There are {count} images in init_images, and batch_size is {self.batch_size}: set it to {count}, or "
                "send one image",
                "init_images",
            )
        if not self.mask:
            return
        if self.mask_blur is None and self.mask_blur_x != self.mask_blur_y:
            raise InvalidRequestError(
                f"Invalid mask_blur_y {shown(self.mask_blur_y)}: the blur is the same in both directions here, so give "
                f"mask_blur_x {self.mask_blur_x} for both, or mask_blur",
                "mask_blur_y",
            )
        if self.resize_mode == _LATENT and not self.inpaint_full_res:
            raise InvalidRequestError(
                f"Invalid resize_mode {_LATENT}: a mask needs the image's pixels; take 0 to {_LATENT - 1}, or "
                "inpaint_full_res",
                "resize_mode",
            )
