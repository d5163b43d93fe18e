"""Reading of pictures: results equal Pillow's, and decompression bombs cost little time and memory."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from imagegen_core import PictureError
from imagegen_core.images.lossy import LossyFormat, encode_lossy
from imagegen_core.picture_files.decode import PictureFile, as_rgb, read_picture, read_text

PIXELS = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
IMAGE = Image.fromarray(PIXELS)
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")


def _saved(form: str, image: Image.Image = IMAGE, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


def _pillows_image(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"progressive": True}, {"lossless": True}])
def test_pixels_equal_pillows(form: str, options: dict[str, Any]) -> None:
    data = _saved(form, **options)
    file = PictureFile.read(data)
    assert (file.size, file.structure.format) == ((53, 37), form)
    assert file.decode().tobytes() == _pillows_image(data).tobytes()


_MODES = {
    "PNG": ("1", "L", "LA", "P", "RGBA"),
    "JPEG": ("1", "L", "CMYK"),
    "WEBP": ("1", "L", "LA", "P", "RGBA", "CMYK"),
    "BMP": ("1", "L", "P", "RGBA"),
    "GIF": ("1", "L", "LA", "P", "RGBA"),
}


@pytest.mark.parametrize(("form", "mode"), [(form, mode) for form, modes in _MODES.items() for mode in modes])
def test_modes_equal_pillows(form: str, mode: str) -> None:
    data = _saved(form, IMAGE.convert(mode))
    picture, expected = read_picture(data), _pillows_image(data)
    assert picture.mode == expected.mode
    assert picture.convert("RGBA").tobytes() == expected.convert("RGBA").tobytes()


def test_a_palettes_transparency_is_kept_and_refused_for_rgb() -> None:
    palette = IMAGE.convert("P")
    data = _saved("PNG", palette, transparency=bytes([0] * 128 + [255] * 128))
    assert read_picture(data).convert("RGBA").tobytes() == _pillows_image(data).convert("RGBA").tobytes()
    with pytest.raises(PictureError, match="it has transparent parts"):
        as_rgb(read_picture(data), "the picture")
    opaque = _saved("PNG", palette, transparency=bytes([255] * 256))
    assert as_rgb(read_picture(opaque), "it").tobytes() == palette.convert("RGB").tobytes()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", [*range(10), 65535])
def test_exif_orientation_is_applied_as_in_pillow(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    data = _saved(form, exif=exif)
    file, expected = PictureFile.read(data), ImageOps.exif_transpose(_pillows_image(data))
    assert file.size == file.decode().size == expected.size
    assert file.decode().tobytes() == expected.tobytes()


def test_an_animations_first_frame_is_read() -> None:
    others = [Image.new("RGB", IMAGE.size, colour) for colour in ("red", "blue")]
    for form in ("PNG", "WEBP", "GIF"):
        data = _saved(form, save_all=True, append_images=others, **({"lossless": True} if form == "WEBP" else {}))
        assert read_picture(data).convert("RGB").tobytes() == _pillows_image(data).convert("RGB").tobytes()


@pytest.mark.parametrize("form", FORMATS)
def test_a_truncated_file_gives_a_picture_or_a_clear_error(form: str) -> None:
    data = _saved(form)
    for end in range(0, len(data), 61):
        try:
            assert read_picture(data[:end]).size == (53, 37)
        except PictureError as error:
            assert "Cannot read the picture: it is " in str(error)


@given(data=st.data())
def test_changed_bytes_give_a_picture_or_a_clear_error(data: st.DataObject) -> None:
    whole = bytearray(_saved(data.draw(st.sampled_from(FORMATS)), IMAGE.resize((8, 6))))
    for position, value in data.draw(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)))):
        whole[position] = value
    try:
        file = PictureFile.read(bytes(whole))
        assert all(isinstance(text, str) for text in file.text.values())
        if file.size[0] * file.size[1] < 10**6:
            file.decode()
    except PictureError:
        pass


# Text


@pytest.mark.parametrize("form", ["jpeg", "webp"])
@given(text=st.text(min_size=1).map(lambda text: text.encode("utf-8", "replace").decode()))
def test_jpeg_and_webp_keep_the_parameters_text(form: LossyFormat, text: str) -> None:
    picture = encode_lossy(PIXELS[:4, :4], form, 90, {"parameters": text, "other": "left out"})
    assert read_text(picture) == {"parameters": text}


def test_text_too_long_for_exif_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    forms: tuple[LossyFormat, ...] = ("jpeg", "webp")
    for form in forms:
        text = read_text(encode_lossy(PIXELS, form, 90, {"parameters": "x" * 100_000}))["parameters"]
        assert set(text) == {"x"}
        assert len(text) == 32_500
    assert "is cut to the 65000 bytes that Exif holds" in caplog.text


@pytest.mark.parametrize(
    ("comment", "text"),
    [
        (b"UNICODE\0" + "a höhle".encode("utf-16-be"), "a höhle"),
        (b"UNICODE\0" + "\ufeffa höhle".encode("utf-16-le"), "a höhle"),
        (b"ASCII\0\0\0a cave\0\0", "a cave"),
        (bytes(8) + b"a cave", "a cave"),
        (b"JIS\0\0\0\0\0" + "洞窟".encode("shift_jis"), "洞窟"),
        ("eine Höhle, als UTF-8".encode(), "eine Höhle, als UTF-8"),
    ],
)
def test_a_user_comment_is_read_in_every_exif_encoding(comment: bytes, text: str) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = comment
    for form in ("JPEG", "WEBP", "PNG"):
        assert read_text(_saved(form, exif=exif.tobytes())) == {"parameters": text}
    for order in (b"II", b"MM"):
        assert read_text(_jpeg_with(_exif_of(order, comment)))["parameters"] == text


def test_every_kind_of_text_chunk_is_read() -> None:
    chunks = b"".join(
        [
            _chunk(b"tEXt", b"plain\0caf\xe9"),
            _chunk(b"zTXt", b"packed\0\0" + zlib.compress(b"caf\xe9")),
            _chunk(b"iTXt", b"utf\0\0\0en\0word\0" + "café".encode()),
            _chunk(b"iTXt", b"packed utf\0\1\0\0\0" + zlib.compress("café".encode())),
        ]
    )
    for data in (_png(chunks), _png(after=chunks)):
        assert read_text(data) == dict.fromkeys(("plain", "packed", "utf", "packed utf"), "café")
        assert read_text(data) == getattr(_pillows_image(data), "text")  # noqa: B009 - only PNG images have it


# Bombs


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(extra: bytes = b"", after: bytes = b"", side: int = 8) -> bytes:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress((b"\0" + bytes(3 * 8)) * 8)
    chunks = [_chunk(b"IHDR", header), extra, _chunk(b"IDAT", pixels), after, _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _segment(marker: int, data: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data


def _jpeg_with(exif: bytes) -> bytes:
    data = _saved("JPEG")
    return data[:2] + _segment(0xE1, b"Exif\0\0" + exif) + data[2:]


def _exif_of(order: bytes, comment: bytes) -> bytes:
    """Return a TIFF structure with a user comment, in the given byte order."""
    sign = "<" if order == b"II" else ">"
    first = struct.pack(f"{sign}HHHIII", 1, 0x8769, 4, 1, 26, 0)
    block = struct.pack(f"{sign}HHHIII", 1, 0x9286, 7, len(comment), 44, 0)
    return order + struct.pack(f"{sign}HI", 42, 8) + first + block + comment


def _exif_of_many() -> bytes:
    """Return Exif data with 65,535 entries that share 1 MB; unpacked, they take 65 GB."""
    entries = b"".join(struct.pack("<HHII", tag, 2, 10**6, 8) for tag in range(1, 65536))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", 65535) + entries + bytes(10**6)


def _webp(kind: bytes, payload: bytes, after: bytes = b"") -> bytes:
    body = b"WEBP" + kind + struct.pack("<I", len(payload)) + payload + after
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _gif(blocks: bytes) -> bytes:
    data = _saved("GIF", IMAGE.convert("P"))
    begin = 13 + 3 * 2 ** (1 + data[10] % 8)
    return data[:begin] + blocks + data[begin:]


def _scans() -> bytes:
    data = _saved("JPEG", Image.new("RGB", (2000, 2000)), progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * 500 + data[-2:]


def _bombs() -> Iterator[tuple[str, bytes]]:
    lossless = b"\x2f" + struct.pack("<I", 8999 | 8999 << 14) + bytes(9)
    packed = zlib.compress(b"a" * 100_000_000, 9)
    jpeg = _saved("JPEG")
    yield "a WebP of 9000x9000", _webp(b"VP8L", lossless)
    yield "a WebP of 16 million squared", _webp(b"VP8X", bytes(4) + b"\xff" * 6)
    yield "a WebP of many chunks", _webp(b"VP8L", lossless, b"AAAA\0\0\0\0" * 500_000)
    yield "a WebP with Exif of many", _webp(b"VP8L", lossless, b"EXIF" + struct.pack("<I", 10**7) + _exif_of_many())
    yield "a PNG of 60000x60000", _png(side=60_000)
    yield "a PNG with a huge profile", _png(_chunk(b"iCCP", b"x\0\0" + packed))
    yield "a PNG with huge packed text", _png(_chunk(b"zTXt", b"x\0\0" + packed))
    yield "a PNG with huge packed UTF-8", _png(after=_chunk(b"iTXt", b"x\0\1\0\0\0" + packed))
    yield "a PNG with much text", _png(_chunk(b"tEXt", b"x\0" + b"a" * 1_000_000) * 8)
    yield "a PNG of many chunks", _png(_chunk(b"aaAa", b"") * 500_000)
    yield "a PNG with Exif of many", _png(_chunk(b"eXIf", _exif_of_many()))
    yield "a JPEG of 65500x65500", jpeg.replace(struct.pack(">HH", 37, 53), struct.pack(">HH", 65500, 65500))
    yield "a JPEG of many segments", jpeg[:2] + b"\xff\xe2\0\2" * 500_000 + jpeg[2:]
    yield "a JPEG of fill bytes", jpeg[:2] + b"\xff" * 5_000_000 + b"\0" + jpeg[2:]
    yield "a JPEG of many scans", _scans()
    yield "a JPEG with Exif of many", _jpeg_with(_exif_of_many()[:60_000])
    yield "a GIF of 65535x65535", _saved("GIF")[:6] + b"\xff" * 4 + _saved("GIF")[10:]
    yield "a GIF of comments", _gif(b"\x21\xfe" + (b"\xff" + b"c" * 255) * 60_000 + b"\0")
    yield "a GIF of tiny comments", _gif(b"\x21\xfe\1c\0" * 500_000)
    yield "a BMP of 2^31 squared", b"BM" + bytes(12) + struct.pack("<IiiHHI", 40, 2**31 - 1, -(2**31), 1, 24, 0)
    lengths = struct.pack("<IiiHHIIiiII", 40, 2400, 2400, 1, 8, 1, 0, 0, 0, 256, 0)
    yield "a BMP of run lengths", b"BM" + bytes(12) + lengths + bytes(1024) + b"\1\2" * 2400 * 2400


BOMBS = dict(_bombs())


@pytest.mark.parametrize("name", BOMBS)
def test_reading_a_bombs_structure_takes_little_time_and_memory(name: str) -> None:
    tracemalloc.start()
    started = time.monotonic()
    try:
        file = PictureFile.read(BOMBS[name])
        assert len(file.text) <= 1
        assert min(file.size) > 0
    except PictureError as error:
        assert "Cannot read the picture: it " in str(error)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.monotonic() - started < 5
    assert peak < 20 * 10**6


@pytest.mark.parametrize("name", [name for name in BOMBS if "9000x" not in name])
def test_a_bomb_decodes_harmlessly_or_gives_a_clear_error(name: str) -> None:
    started = time.monotonic()
    try:
        assert max(read_picture(BOMBS[name]).size) <= 9000
    except PictureError as error:
        assert "Cannot read the picture: it " in str(error)
    assert time.monotonic() - started < 5


def test_a_second_header_is_refused() -> None:
    header = struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0)
    with pytest.raises(PictureError, match="it has no header, or two"):
        PictureFile.read(_png(_chunk(b"IHDR", header)))
    data = _saved("JPEG")
    frame = data.index(b"\xff\xc0")
    end = frame + 2 + struct.unpack_from(">H", data, frame + 2)[0]
    with pytest.raises(PictureError, match="it has two frames"):
        PictureFile.read(data[:end] + data[frame:end] + data[end:])
