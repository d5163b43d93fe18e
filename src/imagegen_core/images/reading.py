"""Reading pictures from outside: whatever is wrong with one is a sentence."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from imagegen_core.errors import PictureError

# For others Pillow runs outside programs, or libraries that write to stderr by themselves.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
_EIGHT_BIT_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")


def read_picture(source: bytes | Path, *, png_only: bool = False) -> Image.Image:
    """Read a whole picture and turn it upright.

    Args:
        source: The PNG, JPEG, WebP, BMP or GIF (its first picture), or its path.
        png_only: Whether to refuse what is no PNG.

    Raises:
        PictureError: It is missing, of another format, damaged, or larger than Pillow opens without a warning.
    """
    name = called(source)
    formats = _FORMATS[:1] if png_only else _FORMATS
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # many a camera's metadata is untidy, and its picture none the worse
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats) as image:
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
                return image
    except UnidentifiedImageError as error:
        raise PictureError(f"Cannot read {name}: it is no {' or '.join(formats)}; give one") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise PictureError(
            f"Cannot read {name}: it unpacks to more than {(Image.MAX_IMAGE_PIXELS or 0) // 10**6} million pixels; "
            "give a smaller one"
        ) from error
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error, zlib.error) as error:
        # An OSError of the system's says itself what is wrong, one of Pillow's that the file is damaged.
        cause = getattr(error, "strerror", None)
        mend = "correct its permissions" if isinstance(error, PermissionError) else "give the path of a picture"
        raise PictureError(
            f"Cannot read {name}: {cause}; {mend}"
            if cause
            else f"Cannot read {name}: it is damaged or cut short ({error}); copy it anew"
        ) from error


def text_of(image: Image.Image) -> dict[str, str]:
    """The text chunks of a picture that was read; none, where it is no PNG."""
    return {keyword: str(text) for keyword, text in getattr(image, "text", {}).items()}


def as_rgb(image: Image.Image, name: str) -> Image.Image:
    """The image in RGB; `name` is what errors call it.

    Raises:
        PictureError: It has transparent parts or more than 8 bits a channel, which RGB would lose.
    """
    if image.mode not in _EIGHT_BIT_MODES:
        raise PictureError(f"Cannot use {name}: it has more than 8 bits a channel; save it with 8 bits first")
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        raise PictureError(f"Cannot use {name}: it has transparent parts; fill its background first")
    return image.convert("RGB")


def called(source: bytes | Path) -> str:
    """What errors call a picture."""
    return "the picture" if isinstance(source, bytes) else str(source)
