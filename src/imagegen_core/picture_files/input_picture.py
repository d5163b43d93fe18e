"""A picture in a request: bytes, a path, base64 or a PIL image, decoded when it is needed."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from imagegen_core.errors import PictureError

if TYPE_CHECKING:
    from PIL.Image import Image

_DATA_URL = "data:"


class InputPicture:
    """An input picture; creating it reads nothing.

    A text is base64 or a data URL, never a path: the bodies of HTTP requests must not name files of the server.
    """

    def __init__(self, source: bytes | str | Path | Image, name: str = "the picture") -> None:
        """Keep the source.

        Args:
            source: An encoded picture as bytes, base64 or a data URL; its path; or a PIL image, which is copied.
            name: The picture's name in error messages.

        Raises:
            TypeError: `source` is of another type.
        """
        if isinstance(source, bytearray | memoryview):
            source = bytes(source)
        if not isinstance(source, bytes | str | Path):
            from PIL import Image

            if not isinstance(source, Image.Image):
                raise TypeError(f"expected bytes, a pathlib.Path or a PIL image, not {type(source).__name__}")
            source = source.copy()
        self._source, self.name = source, name
        self._digest: str | None = None

    @classmethod
    def of(cls, source: object, name: str) -> InputPicture:
        """Return `source` itself if it is an input picture, else a picture of it; see `__init__`."""
        return source if isinstance(source, cls) else cls(source, name)  # type: ignore[arg-type]

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, upright; from the header alone.

        Raises:
            PictureError: The picture cannot be read.
        """
        file = self._file
        if file is not None:
            return file.size  # type: ignore[no-any-return]
        width, height = self._upright().size
        return width, height

    def rgb(self) -> Image:
        """Decode the picture to RGB, upright; the pixels are not kept.

        Raises:
            PictureError: It is damaged or too large, has transparent parts, or more than 8 bits a channel.
        """
        from imagegen_core.picture_files.decode import as_rgb

        image = as_rgb(self._upright(), self.name)
        if self._digest is None:
            stated = f"{image.width}x{image.height} ".encode()
            self._digest = hashlib.sha256(stated + image.tobytes()).hexdigest()
        return image

    @property
    def digest(self) -> str:
        """The SHA-256 of the size and the RGB pixels, so that a PIL image and its file have the same.

        Raises:
            PictureError: As for `rgb`.
        """
        if self._digest is None:
            self.rgb()
        return cast("str", self._digest)

    @cached_property
    def data(self) -> bytes:
        """The encoded picture; a PIL image as PNG.

        Raises:
            PictureError: The file cannot be read, or the text is not base64.
        """
        source = self._source
        if isinstance(source, bytes):
            return source
        if isinstance(source, str):
            return self._from_base64(source)
        if isinstance(source, Path):
            return self._from_file(source)
        buffer = io.BytesIO()
        self.rgb().save(buffer, "PNG")
        return buffer.getvalue()

    def __reduce__(self) -> tuple[type[InputPicture], tuple[bytes, str]]:
        """Pickle the bytes: another machine does not have the file."""
        return type(self), (self.data, self.name)

    def __eq__(self, other: object) -> bool:
        """Compare the sources; the same pixels in two encodings are two pictures."""
        return isinstance(other, InputPicture) and self._source == other._source

    def __hash__(self) -> int:
        return hash(self._source if isinstance(self._source, bytes | str | Path) else id(self._source))

    def __repr__(self) -> str:
        source = self._source
        return f"<{self.name}: {source if isinstance(source, Path) else type(source).__name__}>"

    @property
    def _is_image(self) -> bool:
        return not isinstance(self._source, bytes | str | Path)

    @cached_property
    def _file(self) -> Any:
        """The parsed file; None for a PIL image."""
        from imagegen_core.picture_files.decode import PictureFile

        return None if self._is_image else PictureFile.read(self.data, name=self.name)

    def _upright(self) -> Image:
        """Decode the picture; a PIL image is turned as its Exif says, as a file is."""
        if self._file is not None:
            return self._file.decode()  # type: ignore[no-any-return]
        from PIL import ImageOps

        image: Any = self._source
        return ImageOps.exif_transpose(image)

    def _from_file(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise PictureError(f"Cannot read {path}: {error.strerror}; give the path of a picture") from error

    def _from_base64(self, text: str) -> bytes:
        encoded = text.partition(",")[2] if text.startswith(_DATA_URL) else text
        with contextlib.suppress(ValueError):
            return base64.b64decode(encoded, validate=True)
        try:  # without the line breaks of RFC 2045
            return base64.b64decode("".join(encoded.split()), validate=True)
        except ValueError as error:
            raise PictureError(
                f"Cannot read {self.name}: its text is not base64; send base64 or a data URL, or in Python bytes, a "
                "pathlib.Path or a PIL image"
            ) from error
