"""Masks by transparency, as in OpenAI's API: fully transparent parts are drawn again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imagegen_core.errors import InvalidRequestError, PictureError
from imagegen_core.picture_files.decode import PictureFile
from imagegen_core.picture_files.input_picture import InputPicture
from imagegen_core.server.errors import MaskFormatError
from imagegen_core.server.input_pictures import encoded

if TYPE_CHECKING:
    from PIL import Image


def with_mask(image: InputPicture, mask: InputPicture | None) -> tuple[InputPicture, InputPicture | None]:
    """Return an image in RGB, and its mask with white for the parts that are drawn.

    A mask has white where its alpha is 0. Without a mask, the image's own transparent parts are the mask, as for
    OpenAI's dall-e-2. Half-transparent parts of the image have no colour of their own, so they must lie below the mask.

    Args:
        image: The image; its header can be read.
        mask: A mask of the same size, with transparent parts.

    Raises:
        MaskFormatError: The mask has no alpha channel.
        InvalidRequestError: A picture is damaged, the mask has another size or no transparent part, or the image has
            transparent parts outside the mask.
    """
    if mask is not None and mask.size != image.size:
        sides = ["x".join(map(str, each.size)) for each in (mask, image)]
        raise InvalidRequestError(
            f"The mask has {sides[0]} pixels and the image {sides[1]}: give a mask of the image's size", "mask"
        )
    drawn = None if mask is None else _drawn_parts(mask)
    file = PictureFile.read(image.data, name=image.name)
    if file.may_be_transparent:
        pixels = _decoded(file, "image")
        if pixels.has_transparency_data:
            return _flattened(_rgba(pixels), image, drawn)
    return image, None if drawn is None else encoded(drawn, "the mask")


def _drawn_parts(mask: InputPicture) -> Image.Image:
    pixels = _decoded(PictureFile.read(mask.data, name=mask.name), "mask")
    if not pixels.has_transparency_data:
        raise MaskFormatError(
            "The mask has no alpha channel: send a PNG whose transparent parts are drawn again", "mask"
        )
    drawn = _transparent(_rgba(pixels))
    if drawn.getbbox() is None:
        raise InvalidRequestError(
            "The mask has no fully transparent part, so nothing would be drawn: make the part to draw transparent",
            "mask",
        )
    return drawn


def _flattened(
    pixels: Image.Image, image: InputPicture, drawn: Image.Image | None
) -> tuple[InputPicture, InputPicture | None]:
    """Return the image on white, and the mask; see `with_mask`."""
    from PIL import Image, ImageChops

    alpha = pixels.getchannel("A")
    if drawn is None and alpha.getextrema() != (255, 255):
        drawn = _transparent(pixels)
    kept = alpha if drawn is None else ImageChops.lighter(alpha, drawn)
    if kept.getextrema() != (255, 255):
        raise InvalidRequestError(
            "The image has half-transparent parts outside the mask: fill its background first", "image"
        )
    opaque = Image.new("RGB", pixels.size, "white")
    opaque.paste(pixels, mask=alpha)
    return encoded(opaque, image.name), None if drawn is None else encoded(drawn, "the mask")


def _transparent(pixels: Image.Image) -> Image.Image:
    """Return a grey picture with white for each pixel of alpha 0, and black for others."""
    return pixels.getchannel("A").point([255] + [0] * 255)


def _rgba(pixels: Image.Image) -> Image.Image:
    return pixels if pixels.mode == "RGBA" else pixels.convert("RGBA")


def _decoded(file: PictureFile, field: str) -> Image.Image:
    try:
        return file.decode()
    except PictureError as error:
        raise InvalidRequestError(str(error), field) from error
