"""An input picture at the size to draw, its mask, and the way back to the original."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageFilter, ImageOps

from imagegen_core.errors import InvalidRequestError
from imagegen_core.picture_files.decode import MAX_PIXELS
from imagegen_core.request import VAE_REDUCTION, OutpaintOptions, ResolvedRequest, Size

_MODES = {"stretch": "default", "crop": "crop", "pad": "fill", "latent": "default"}  # diffusers' names
_RADII = (64, 32, 16, 8, 4, 2, 1)  # of the blurs of the surroundings, in pixels, from far to near
_BOX = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Canvas:
    """An input picture, prepared for drawing.

    Attributes:
        image: The picture in RGB, at the size to draw; for the resize ``latent`` at its own size, in multiples of 8.
        mask: The mask in grey, of the same size: white is drawn. None draws everything.
        original: The pixels around the mask, in RGB, before the masked part was filled.
        original_mask: The mask of `original`.
        box: The part of `original` that is drawn, if it is not the whole: left, top, right and bottom.
    """

    image: Image.Image
    mask: Image.Image | None = None
    original: Image.Image | None = None
    original_mask: Image.Image | None = None
    box: _BOX | None = None

    @classmethod
    def of(cls, request: ResolvedRequest) -> Canvas:
        """Decode and prepare the pictures of a request with an image.

        Raises:
            PictureError: A picture is damaged.
            InvalidRequestError: The mask is empty, or the image is too narrow for its resize.
        """
        assert request.image is not None  # noqa: S101 - for mypy: the caller asks only then
        image, size, mode = request.image.rgb(), request.size, _MODES[request.resize or "stretch"]
        if request.resize == "latent":
            own = Size(*(max(VAE_REDUCTION, side - side % VAE_REDUCTION) for side in image.size))
            return cls(_resized(image, own, mode))
        mask = request.mask.rgb().convert("L") if request.mask is not None else Image.new("L", image.size, 0)
        if request.inpaint.invert and request.mask is not None:
            mask = ImageOps.invert(mask)
        if request.outpaint:
            image, mask = _outpainted(image, mask, request.outpaint.fitted(image.size, VAE_REDUCTION))
        elif request.mask is None:
            return cls(_resized(image, size, mode))
        if request.inpaint.blur:
            mask = mask.filter(ImageFilter.GaussianBlur(request.inpaint.blur))
        if mask.getbbox() is None:
            raise InvalidRequestError(
                "The mask is black everywhere, so nothing would be drawn: paint the part to draw white, or leave the "
                "mask out",
                "mask",
            )
        filled = surroundings(image, mask) if request.inpaint.fill == "surroundings" else image
        if not request.inpaint.only_masked:
            original, small_mask = _resized(image, size, mode), _resized(mask, size, mode)
            drawn = original if filled is image else _resized(filled, size, mode)
            return cls(drawn, small_mask, original, small_mask)
        box: _BOX = _processor().get_crop_region(mask, size.width, size.height, pad=request.inpaint.padding)
        part, part_mask = (_resized(each.crop(box), size, "fill") for each in (filled, mask))
        return cls(part, part_mask, image, mask, box)

    def pasted(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return drawn pixels [height, width, 3] with the original around the mask, whose black parts keep every bit.

        Grey parts of the mask mix both. With a box, the result has the original's size.
        """
        if self.original is None or self.original_mask is None:
            return pixels
        drawn = Image.fromarray(pixels)
        if self.box is not None:
            left, top, right, bottom = self.box
            part = _resized(drawn, (right - left, bottom - top), "crop")
            drawn = self.original.copy()
            drawn.paste(part, (left, top))
        return np.asarray(Image.composite(drawn, self.original, self.original_mask))

    def pixels(self) -> npt.NDArray[np.float32]:
        """Return the image's values from -1 to 1, [1, 3, height, width]."""
        values = np.array(self.image, np.float32) / np.float32(255)
        return np.ascontiguousarray((np.float32(2) * values - np.float32(1)).transpose(2, 0, 1)[None])

    def mask_values(self) -> npt.NDArray[np.float32]:
        """Return the mask as 0 and 1, [1, 1, height, width]; grey from the middle on is 1."""
        values = np.array(self.mask, np.float32) / np.float32(255)
        return (values >= 0.5).astype(np.float32)[None, None]  # noqa: PLR2004 - the middle


def surroundings(image: Image.Image, mask: Image.Image) -> Image.Image:
    """Fill the masked part with the blurred colours around it, from wide to narrow blurs."""
    known = ImageChops.invert(mask)
    weight = np.asarray(known, np.float32)[..., None] / 255
    pixels, average = np.asarray(image, np.float32), image.resize((1, 1), Image.Resampling.BOX)
    colours = pixels * weight
    filled = np.broadcast_to(np.asarray(average, np.float32), colours.shape)
    for radius in _RADII:
        blur = ImageFilter.GaussianBlur(radius)
        near = np.asarray(known.filter(blur), np.float32)[..., None] / 255
        blurred = np.asarray(Image.fromarray(colours.round().astype(np.uint8)).filter(blur), np.float32)
        share = np.minimum(near * 4, 1)
        filled = filled * (1 - share) + share * np.minimum(blurred / np.maximum(near, 1 / 255), 255)
    return Image.fromarray((colours + (1 - weight) * filled).round().astype(np.uint8))


def _outpainted(image: Image.Image, mask: Image.Image, sides: OutpaintOptions) -> tuple[Image.Image, Image.Image]:
    """Add sides with the colours of the edges, and white sides of the mask."""
    widths = ((sides.top, sides.bottom), (sides.left, sides.right))
    edges = np.pad(np.asarray(image), (*widths, (0, 0)), mode="edge")
    return Image.fromarray(edges), Image.fromarray(np.pad(np.asarray(mask), widths, constant_values=255))


def _resized(image: Image.Image, size: Size | tuple[int, int], mode: str) -> Image.Image:
    """Resize as diffusers does.

    Raises:
        InvalidRequestError: The proportions are too extreme.
    """
    width, height = (size.width, size.height) if isinstance(size, Size) else size
    whole = max(width / image.width, height / image.height) if mode == "crop" else 1
    thin = mode == "fill" and min(image.width * height // image.height, image.height * width // image.width) < 1
    if thin or (whole * image.width * whole * image.height > MAX_PIXELS and whole > 1):
        raise InvalidRequestError(
            f"The image of {image.width}x{image.height} pixels does not fit into {width}x{height}: cut it to similar "
            "proportions, or set resize to stretch",
            "resize",
        )
    if image.size == (width, height):
        return image
    resized: Any = _processor().resize(image, height, width, mode)
    return resized.convert(image.mode)  # type: ignore[no-any-return]


@cache
def _processor() -> Any:
    from diffusers.image_processor import VaeImageProcessor

    return VaeImageProcessor()
