"""The input pictures of A1111's ``img2img``: transparent parts become a background or a mask."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from imagegen_core.errors import InvalidRequestError
from imagegen_core.picture_files.decode import PictureFile, as_rgb
from imagegen_core.server.a1111.base64_pictures import decode_base64
from imagegen_core.server.context import ServerContext

if TYPE_CHECKING:
    from imagegen_core.server.a1111.img2img import Img2ImgBody

_MOST_PIXELS = 24_000_000
_MIDDLE = 128  # an alpha above it is drawn again


async def read_images(body: Img2ImgBody, context: ServerContext, background: str) -> list[bytes]:
    """Decode the images, without transparent parts.

    Args:
        body: The request body.
        context: The server.
        background: The colour of transparent parts, such as ``#ffffff``.

    Raises:
        InvalidRequestError: An image is not base64, or too large.
        PictureError: An image is no picture.
    """
    return [
        await context.reading(flattened, await decode_base64(text), background, "init_images")
        for text in body.init_images
    ]


async def read_mask(body: Img2ImgBody, context: ServerContext) -> bytes | None:
    """Decode the mask, if there is one.

    A1111 draws without the mask if it has nothing to draw, and ``inpaint_full_res`` is on.

    Raises:
        InvalidRequestError: The mask is not base64, or too large.
        PictureError: The mask is no picture.
    """
    if not body.mask:
        return None
    mask, is_blank = await context.reading(
        grey_mask, await decode_base64(body.mask), bool(body.inpainting_mask_invert), "mask"
    )
    return None if is_blank and body.inpaint_full_res else mask


def flattened(data: bytes, background: str, field: str) -> bytes:
    """Return a picture without transparent parts, by ``flatten`` in A1111's ``modules/images.py``.

    Args:
        data: The encoded picture.
        background: The colour of transparent parts.
        field: The field's name in errors.

    Raises:
        InvalidRequestError: It is too large.
        PictureError: It is no picture.
    """
    file = _file(data, field)
    if not file.may_be_transparent:
        return data
    image = file.decode()
    if not _is_transparent(image):
        return data
    image = image.convert("RGBA")
    ground = Image.new("RGBA", image.size, background)
    ground.paste(image, mask=image)
    return _png(ground.convert("RGB"))


def grey_mask(data: bytes, invert: bool, field: str) -> tuple[bytes, bool]:
    """Return a mask in grey, by ``create_binary_mask`` in A1111's ``modules/processing.py``.

    White parts are drawn again; with transparent parts, those with an alpha above 128.

    Args:
        data: The encoded mask.
        invert: Whether black parts are drawn again.
        field: The field's name in errors.

    Returns:
        The mask, and whether it has nothing to draw.

    Raises:
        InvalidRequestError: It is too large.
        PictureError: It is no picture.
    """
    image = _file(data, field).decode()
    if _is_transparent(image):
        alpha = image.convert("RGBA").getchannel("A")
        grey = alpha.point(lambda value: 255 if value > _MIDDLE else 0)
        data = _png(grey)
    else:
        grey = as_rgb(image, f"the picture in {field}").convert("L")
    drawn = ImageOps.invert(grey) if invert else grey
    return data, drawn.getbbox() is None


def _file(data: bytes, field: str) -> PictureFile:
    """Read a picture's header, and refuse a large picture before its pixels are unpacked."""
    file = PictureFile.read(data, name=f"the picture in {field}")
    width, height = file.size
    if width * height > _MOST_PIXELS:
        raise InvalidRequestError(
            f"Invalid {field} of {width}x{height} pixels: this server reads pictures of up to {_MOST_PIXELS} pixels, "
            "so scale it down",
            field,
        )
    return file


def _is_transparent(image: Image.Image) -> bool:
    return image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
