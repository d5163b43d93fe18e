"""The text in a PNG: read and replace it, while the other chunks keep their bytes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

from imagegen_core.picture_files.decode import PictureFile
from imagegen_core.picture_files.parsing.png import SIGNATURE, TEXT, chunks


def png_text(png: bytes) -> dict[str, str]:
    """Return a PNG's text by keyword.

    Raises:
        PictureError: It is damaged, or no PNG.
    """
    return PictureFile.read(png, png_only=True).text


def with_png_text(png: bytes, text: Mapping[str, str]) -> bytes:
    """Return a PNG with some texts replaced; all other chunks keep their bytes and their order.

    Args:
        png: A valid PNG, such as one that `png_text` has read.
        text: Texts by keyword; Latin-1 text becomes a tEXt chunk, other text an iTXt chunk, as in `encode_png`.
    """
    parts, is_written = [SIGNATURE], False
    for kind, content, chunk in chunks(memoryview(png)):
        if kind in TEXT and bytes(content).partition(b"\0")[0].decode("latin-1") in text:
            continue
        if kind == b"IDAT" and not is_written:
            parts += [_chunk(keyword, value) for keyword, value in text.items()]
            is_written = True
        parts.append(bytes(chunk))
    return b"".join([*parts, _packed(b"IEND", b"")])


def _chunk(keyword: str, value: str) -> bytes:
    name = keyword.encode("latin-1")
    try:
        return _packed(b"tEXt", name + b"\0" + value.encode("latin-1"))
    except UnicodeEncodeError:
        return _packed(b"iTXt", name + b"\0\0\0\0\0" + value.encode("utf-8", "replace"))


def _packed(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
