"""Text in PNGs, replaced while the other chunks keep their bytes; Pillow is the oracle."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from imagegen_core import PictureError, encode_png
from imagegen_core.images.png_text import png_text, with_png_text

KEYWORDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=200)


def _by_pillow(png: bytes) -> dict[str, str]:
    with Image.open(io.BytesIO(png)) as image:
        image.load()
        return {keyword: str(value) for keyword, value in image.text.items()}  # type: ignore[attr-defined]


@given(st.dictionaries(KEYWORDS, TEXTS, max_size=4), st.dictionaries(KEYWORDS, TEXTS, max_size=4))
def test_replaced_text_is_read_by_pillow(first: dict[str, str], second: dict[str, str]) -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    png = with_png_text(encode_png(pixels, first), second)
    assert _by_pillow(png) == png_text(png) == first | second
    assert (np.asarray(Image.open(io.BytesIO(png))) == pixels).all()
    assert with_png_text(png, second) == png


def test_a_damaged_png_is_refused() -> None:
    with pytest.raises(PictureError):
        png_text(encode_png(np.zeros((4, 4, 3), np.uint8))[:40])
