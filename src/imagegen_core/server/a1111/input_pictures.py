"""The input pictures of A1111's ``img2img``: transparent parts become a background or a mask."""

from __future__ import annotations

import anyio.to_thread
from PIL import Image, ImageOps

from imagegen_core.picture_files.decode import PictureFile, as_rgb
from imagegen_core.picture_files.input_picture import InputPicture
from imagegen_core.server.a1111.base64_pictures import decode_base64
from imagegen_core.server.a1111.img2img import Img2ImgBody
from imagegen_core.server.context import ServerContext
from imagegen_core.server.input_pictures import encoded
from imagegen_core.server.picture_urls import fetch_picture

_MIDDLE = 128  # an alpha above it is drawn again


async def read_images(body: Img2ImgBody, context: ServerContext, background: str) -> list[InputPicture]:
    """Return the images, without transparent parts.

    Args:
        body: The request body.
        context: The server.
        background: The colour of transparent parts, such as ``#ffffff``.

    Raises:
        InvalidRequestError: An image is not base64 or too large, or its host is not allowed.
        PictureError: An image is no picture.
    """
    return [
        await context.masking(flattened, await _read(text, "init_images", context), background)
        for text in body.init_images
    ]


async def read_mask(body: Img2ImgBody, context: ServerContext) -> InputPicture | None:
    """Return the mask, if there is one.

    A1111 draws without the mask if it has nothing to draw, and ``inpaint_full_res`` is on.

    Raises:
        InvalidRequestError: The mask is not base64 or too large, or its host is not allowed.
        PictureError: The mask is no picture.
    """
    if not body.mask:
        return None
    given = await _read(body.mask, "mask", context)
    mask, is_blank = await context.masking(grey_mask, given, bool(body.inpainting_mask_invert))
    return None if is_blank and body.inpaint_full_res else mask


def flattened(picture: InputPicture, background: str) -> InputPicture:
    """Return a picture without transparent parts, by ``flatten`` in A1111's ``modules/images.py``.

    Raises:
        PictureError: It is damaged.
    """
    file = PictureFile.read(picture.data, name=picture.name)
    if not file.may_be_transparent:
        return picture
    image = file.decode()
    if not _is_transparent(image):
        return picture
    image = image.convert("RGBA")
    ground = Image.new("RGBA", image.size, background)
    ground.paste(image, mask=image)
    return encoded(ground.convert("RGB"), picture.name)


def grey_mask(picture: InputPicture, invert: bool) -> tuple[InputPicture, bool]:
    """Return a mask in grey, by ``create_binary_mask`` in A1111's ``modules/processing.py``.

    White parts are drawn again; with transparent parts, those with an alpha above 128.

    Args:
        picture: The mask.
        invert: Whether black parts are drawn again.

    Returns:
        The mask, and whether it has nothing to draw.

    Raises:
        PictureError: It is damaged.
    """
    image = PictureFile.read(picture.data, name=picture.name).decode()
    if _is_transparent(image):
        grey = image.convert("RGBA").getchannel("A").point(lambda value: 255 if value > _MIDDLE else 0)
        picture = encoded(grey, picture.name)
    else:
        grey = as_rgb(image, picture.name).convert("L")
    drawn = ImageOps.invert(grey) if invert else grey
    return picture, drawn.getbbox() is None


async def _read(text: str, field: str, context: ServerContext) -> InputPicture:
    """Return a picture from base64 or an allowed host, with its header read."""
    if text.startswith(("http://", "https://")):
        hosts, limit = context.settings.picture_hosts, context.settings.max_body_bytes
        data = await fetch_picture(text, hosts, limit, field)
    else:
        data = await decode_base64(text)
    picture = InputPicture(data, f"the picture in {field}")
    context.limits.check_picture(field, *await anyio.to_thread.run_sync(lambda: picture.size))
    return picture


def _is_transparent(image: Image.Image) -> bool:
    return image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255)
