"""PNGs keep pixels and text unchanged, and the same input gives the same bytes."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from imagegen_core.images.png import encode_png


def _decoded(png: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(png))
    image.load()
    return image


def _photo(side: int) -> np.ndarray:
    """Return gradients with noise like a VAE's output."""
    y, x = np.mgrid[0:side, 0:side] / side
    smooth = np.stack([180 + 60 * y - 40 * x, 120 + 80 * x * y, 200 - 100 * y], axis=-1)
    return (smooth + np.random.default_rng(1).normal(size=smooth.shape)).clip(0, 255).astype(np.uint8)


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))))
def test_encoding_is_lossless(pixels: np.ndarray) -> None:
    image = _decoded(encode_png(pixels))
    assert (image.mode, image.format) == ("RGB", "PNG")
    assert np.array_equal(np.asarray(image), pixels)


def test_the_same_picture_gives_the_same_bytes() -> None:
    text = {"parameters": "a lake", "imagegen": "é漢"}
    assert encode_png(_photo(64), text) == encode_png(_photo(64), text)


def test_a_photo_uses_run_lengths_and_stays_near_pillows_default_size() -> None:
    pixels = _photo(256)
    default, run_lengths = io.BytesIO(), io.BytesIO()
    Image.fromarray(pixels).save(default, format="PNG")
    Image.fromarray(pixels).save(run_lengths, format="PNG", compress_type=zlib.Z_RLE)
    png = encode_png(pixels)
    assert png == run_lengths.getvalue()
    assert len(png) < 1.15 * len(default.getvalue())


@given(st.dictionaries(st.sampled_from(["parameters", "imagegen", "Title"]), st.text(), max_size=3))
def test_any_text_is_read_back_unchanged(text: dict[str, str]) -> None:
    assert _decoded(encode_png(_photo(4), text)).text == text


@pytest.mark.parametrize(("value", "chunk"), [("a lake", b"tEXt"), ("café", b"tEXt"), ("湖 🏞", b"iTXt")])
def test_text_outside_latin_1_is_utf_8(value: str, chunk: bytes) -> None:
    png = encode_png(_photo(4), {"parameters": value})
    assert chunk + b"parameters\0" in png
    assert _decoded(png).text == {"parameters": value}


def test_a_lone_surrogate_becomes_a_question_mark() -> None:
    assert _decoded(encode_png(_photo(4), {"parameters": "a\ud800b"})).text == {"parameters": "a?b"}
