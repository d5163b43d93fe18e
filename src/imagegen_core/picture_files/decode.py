"""Read pictures from outside; every fault becomes an error with one sentence."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from PIL import Image, UnidentifiedImageError

from imagegen_core.errors import PictureError
from imagegen_core.picture_files.exif import ExifTags, read_exif
from imagegen_core.picture_files.parsing import bmp, gif, jpeg, png, webp
from imagegen_core.picture_files.parsing.structure import RefusedError, Structure

MAX_PIXELS = 89_478_485
"""The largest picture in pixels, about 9,400 square. Pillow rejects larger ones as decompression bombs."""
COMMENT = "parameters"
"""The keyword of A1111's text. JPEG and WebP carry this text as Exif's user comment."""

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")  # for others Pillow runs programs, or libraries that write output
_EIGHT_BIT_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")
_DAMAGED = (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error, zlib.error)
_UPRIGHT = {  # by Exif 2.3, section 4.6.4, tag 274
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE = 5  # from here on, width and height are swapped


@dataclass(frozen=True)
class PictureFile:
    """A picture file with known size and text, but without unpacked pixels.

    Attributes:
        name: Its name in error messages.
        structure: The parsed file.
    """

    name: str
    structure: Structure

    @classmethod
    def read(cls, source: bytes | Path, *, png_only: bool = False, name: str | None = None) -> Self:
        """Read a picture file's structure; for an animation, its first picture.

        Args:
            source: The PNG, JPEG, WebP, BMP or GIF, or its path.
            png_only: Whether to refuse other formats than PNG.
            name: The picture's name in error messages; None derives it from the source.

        Raises:
            PictureError: It is missing, of another format, damaged, or has too many parts or too much text.
        """
        name = name or called(source)
        try:
            data = source if isinstance(source, bytes) else source.read_bytes()
        except OSError as error:
            mend = "correct its permissions" if isinstance(error, PermissionError) else "give the path of a picture"
            raise PictureError(f"Cannot read {name}: {error.strerror}; {mend}") from error
        try:
            structure = _parsed(data)
        except RefusedError as error:
            raise PictureError(f"Cannot read {name}: {error}") from error
        except _DAMAGED as error:
            raise _damaged(name, error) from error
        if structure is None:
            formats = _FORMATS[:1] if png_only else _FORMATS
            raise PictureError(f"Cannot read {name}: it is not a {' or '.join(formats)}; give one")
        if png_only and structure.format != "PNG":
            raise PictureError(
                f"Cannot read {name}: it is not a PNG but a {structure.format}, whose text is A1111's and rounds; give "
                "the PNG that imagegen drew"
            )
        return cls(name, structure)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, upright."""
        width, height = self.structure.width, self.structure.height
        return (height, width) if self._exif.orientation >= _ON_ITS_SIDE else (width, height)

    @property
    def text(self) -> dict[str, str]:
        """A PNG's text by keyword; for other formats the user comment, as ``parameters``."""
        comment = {COMMENT: self._exif.comment} if self._exif.comment else {}
        return comment | dict(self.structure.text)

    @property
    def may_be_transparent(self) -> bool:
        """Whether the header announces transparency; the pixels may be opaque.

        Raises:
            PictureError: The header is damaged.
        """
        if self.structure.format == "JPEG":
            return False
        try:
            with Image.open(io.BytesIO(b"".join(self.structure.parts)), formats=(self.structure.format,)) as image:
                return bool(image.has_transparency_data)
        except (*_DAMAGED, Warning, Image.DecompressionBombError) as error:
            raise _damaged(self.name, error) from error

    def decode(self) -> Image.Image:
        """Unpack the pixels and turn them upright.

        Raises:
            PictureError: There are more than `MAX_PIXELS`, or the file is damaged.
        """
        width, height = self.size
        if width * height > MAX_PIXELS:
            raise PictureError(
                f"Cannot read {self.name}: it unpacks to more than {MAX_PIXELS // 10**6} million pixels; "
                "give a smaller one"
            )
        stored = self.structure
        try:
            with Image.open(io.BytesIO(b"".join(stored.parts)), formats=(stored.format,)) as image:
                if image.size != (stored.width, stored.height):
                    raise ValueError("its size is not the one it states")
                image.load()
                turn = _UPRIGHT.get(self._exif.orientation)
                return image if turn is None else image.transpose(turn)
        except (*_DAMAGED, Warning, Image.DecompressionBombError) as error:
            raise _damaged(self.name, error) from error

    @cached_property
    def _exif(self) -> ExifTags:
        return read_exif(self.structure.exif)


def read_picture(source: bytes | Path, *, png_only: bool = False) -> Image.Image:
    """Read a whole picture and turn it upright; see `PictureFile`.

    Raises:
        PictureError: It is missing, of another format, damaged, or larger than `MAX_PIXELS`.
    """
    return PictureFile.read(source, png_only=png_only).decode()


def read_text(source: bytes | Path) -> dict[str, str]:
    """Read the text of a picture, without unpacking its pixels; see `PictureFile.text`.

    Raises:
        PictureError: As `PictureFile.read` raises.
    """
    return PictureFile.read(source).text


def as_rgb(image: Image.Image, name: str) -> Image.Image:
    """Convert the image to RGB; error messages call it `name`.

    Raises:
        PictureError: It has transparent parts or more than 8 bits per channel, which RGB would lose.
    """
    if image.mode not in _EIGHT_BIT_MODES:
        raise PictureError(f"Cannot use {name}: it has more than 8 bits a channel; save it with 8 bits first")
    if image.has_transparency_data:
        image = image.convert("RGBA")  # Pillow warns when it converts a palette with transparency to RGB directly
        if image.getchannel("A").getextrema() != (255, 255):
            raise PictureError(f"Cannot use {name}: it has transparent parts; fill its background first")
    return image.convert("RGB")


def called(source: bytes | Path) -> str:
    """Return a picture's name for error messages."""
    return "the picture" if isinstance(source, bytes) else str(source)


def _parsed(data: bytes) -> Structure | None:
    """Parse the file's structure; return None if its format is unknown."""
    if data.startswith(png.SIGNATURE):
        return png.parse_png(data)
    if data.startswith(jpeg.SIGNATURE):
        return jpeg.parse_jpeg(data)
    if webp.is_webp(data):
        return webp.parse_webp(data)
    if data.startswith(gif.SIGNATURES):
        return gif.parse_gif(data)
    if data.startswith(bmp.SIGNATURE):
        return bmp.parse_bmp(data)
    return None


def _damaged(name: str, error: BaseException) -> PictureError:
    if isinstance(error, UnidentifiedImageError):
        error = ValueError("its header is wrong")
    return PictureError(f"Cannot read {name}: it is damaged or cut short ({error}); copy it again")
