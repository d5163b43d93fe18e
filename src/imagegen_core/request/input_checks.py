"""The check of a request's input pictures and their options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from imagegen_core.errors import InvalidRequestError, PictureError
from imagegen_core.picture_files.input_picture import InputPicture
from imagegen_core.request.checks import choice, number, shown
from imagegen_core.request.picture_options import RESIZES, InpaintOptions, OutpaintOptions
from imagegen_core.request.size import MAX_SIDE, VAE_REDUCTION

_MAX_IMAGE_GUIDANCE = 100.0
_NEED_IMAGE = ("mask", "strength", "resize", "inpaint", "outpaint", "image_guidance_scale")


@dataclass(frozen=True, slots=True)
class PictureInputs:
    """The checked fields of a request about its input pictures; only the files' headers are read."""

    image: InputPicture | None
    mask: InputPicture | None
    strength: float | None
    resize: str | None
    inpaint: InpaintOptions
    outpaint: OutpaintOptions
    image_guidance_scale: float | None

    @classmethod
    def of(cls, request: object) -> Self:
        """Validate a request's input pictures and their options.

        Raises:
            InvalidRequestError: A picture cannot be read, a value is out of range, or a field needs another.
        """
        image, mask = (_picture(request, name) for name in ("image", "mask"))
        inpaint = InpaintOptions.of(getattr(request, "inpaint", None))
        outpaint = OutpaintOptions.of(getattr(request, "outpaint", None))
        if image is None:
            _check_absent(request, inpaint, outpaint)
            return cls(None, None, None, None, inpaint, outpaint, None)
        paints = mask is not None or bool(outpaint)
        if inpaint != InpaintOptions() and not paints:
            raise InvalidRequestError(
                "The options in inpaint need a mask or outpaint: give one, or leave them out", "inpaint"
            )
        if mask is not None and mask.size != image.size:
            raise InvalidRequestError(
                f"The mask has {_sides(mask)} pixels and the image {_sides(image)}: give a mask of the image's size",
                "mask",
            )
        strength = number("strength", getattr(request, "strength", None), 1.0)
        resize = getattr(request, "resize", None)
        resize = None if resize is None else choice("resize", resize, RESIZES)
        if resize == "latent" and paints:
            raise InvalidRequestError(
                "Invalid resize 'latent': a mask needs the image's pixels; expected stretch, crop or pad", "resize"
            )
        scale = number("image_guidance_scale", getattr(request, "image_guidance_scale", None), _MAX_IMAGE_GUIDANCE, 1.0)
        return cls(image, mask, strength, resize, inpaint, outpaint, scale)

    def own_size(self) -> str | None:
        """Return the size of a drawn picture if the request has none; None without an image.

        With `outpaint`, it is the size of the image with the new sides. diffusers also rounds down to multiples of 8.

        Raises:
            InvalidRequestError: The image is too large or too small for this.
        """
        if self.image is None:
            return None
        sides = self.image.size
        if self.outpaint:
            sides = self.outpaint.fitted(sides, VAE_REDUCTION).grown(sides)
        width, height = (side - side % VAE_REDUCTION for side in sides)
        if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
            raise InvalidRequestError(
                f"The image has {_sides(self.image)} pixels, which is no size to draw: give size, such as 512x512",
                "size",
            )
        return f"{width}x{height}"


def _picture(request: object, name: str) -> InputPicture | None:
    """Return a request's picture with a readable header."""
    source = getattr(request, name, None)
    if source is None:
        return None
    try:
        picture = InputPicture.of(source, f"the {name}")
        _ = picture.size
    except TypeError as error:
        raise InvalidRequestError(f"Invalid {name} {shown(source)}: {error}", name) from error
    except PictureError as error:
        raise InvalidRequestError(str(error), name) from error
    return picture


def _check_absent(request: object, inpaint: InpaintOptions, outpaint: OutpaintOptions) -> None:
    """Refuse options of an image without an image."""
    values = {name: getattr(request, name, None) for name in _NEED_IMAGE}
    values |= {"inpaint": inpaint if inpaint != InpaintOptions() else None, "outpaint": outpaint or None}
    for name, value in values.items():
        if value is not None:
            raise InvalidRequestError(f"Invalid {name}: it needs an image; give image, or leave {name} out", name)


def _sides(picture: InputPicture) -> str:
    width, height = picture.size
    return f"{width}x{height}"
