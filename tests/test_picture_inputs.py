"""Input pictures of requests: their sources, sizes and options, and the refusal of others."""

from __future__ import annotations

import base64
import io
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from imagegen_core import (
    Backend,
    GenerateRequest,
    InpaintOptions,
    InvalidRequestError,
    MicroConditioning,
    OutpaintOptions,
    ResolvedRequest,
    Variation,
)
from imagegen_core.picture_files.input_picture import InputPicture


def picture(width: int = 24, height: int = 16, mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(noise).convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def resolved(**fields: Any) -> ResolvedRequest:
    return ResolvedRequest.of(GenerateRequest(prompt="a lake", **fields), "64x64")


PNG = encoded(picture())


def test_bytes_a_path_base64_and_a_pil_image_are_the_same_picture(tmp_path: Path) -> None:
    path = tmp_path / "in.png"
    path.write_bytes(PNG)
    text = base64.b64encode(PNG).decode()
    sources = [PNG, path, text, f"data:image/png;base64,{text}", picture(), bytearray(PNG)]
    images = [resolved(image=source).image for source in sources]
    assert {image and image.digest for image in images} == {InputPicture(PNG).digest}
    assert {image and image.size for image in images} == {(24, 16)}


def test_a_text_is_never_a_path(tmp_path: Path) -> None:
    path = tmp_path / "in.png"
    path.write_bytes(PNG)
    with pytest.raises(InvalidRequestError, match="not base64") as caught:
        resolved(image=str(path))
    assert caught.value.field == "image"


def test_a_pil_image_may_change_after_the_request() -> None:
    image = picture()
    request = GenerateRequest(prompt="a", image=image)
    before = InputPicture(PNG).digest
    image.paste((0, 0, 0), (0, 0, 24, 16))
    assert ResolvedRequest.of(request, "64x64").image.digest == before  # type: ignore[union-attr]


def test_a_pickled_picture_needs_no_file(tmp_path: Path) -> None:
    path = tmp_path / "in.png"
    path.write_bytes(PNG)
    request = pickle.loads(pickle.dumps(GenerateRequest(prompt="a", image=path)))
    path.unlink()
    assert ResolvedRequest.of(request, "64x64").image.digest == InputPicture(PNG).digest  # type: ignore[union-attr]


def test_json_carries_base64() -> None:
    request = GenerateRequest(prompt="a", image=PNG)
    again = GenerateRequest.model_validate_json(request.model_dump_json(exclude_unset=True))
    assert again.image.data == PNG  # type: ignore[union-attr]


@given(st.integers(8, 300), st.integers(8, 300))
def test_the_size_is_the_images_own_down_to_multiples_of_8(width: int, height: int) -> None:
    size = resolved(image=Image.new("L", (width, height))).size
    assert (size.width, size.height) == (width - width % 8, height - height % 8)


def test_an_exif_rotation_turns_the_size() -> None:
    exif = Image.Exif()
    exif[274] = 6
    size = resolved(image=encoded(picture(), "JPEG", exif=exif)).size
    assert (size.width, size.height) == (16, 24)


@given(*[st.integers(1, 200)] * 2, *[st.integers(0, 200)] * 4)
def test_an_outpainted_size_holds_the_image_and_is_a_multiple_of_8(
    width: int, height: int, left: int, top: int, right: int, bottom: int
) -> None:
    sides = {"left": left, "top": top, "right": right, "bottom": bottom}
    if not any(sides.values()):
        return
    size = resolved(image=Image.new("L", (width, height)), outpaint=OutpaintOptions(**sides)).size
    missing = size.width - width - left - right, size.height - height - top - bottom
    assert all(0 <= more < 8 for more in missing)


@pytest.mark.parametrize("strength", [None, 0.0, 0.5, 1.0])
def test_a_strength_is_kept(strength: float | None) -> None:
    assert resolved(image=PNG, strength=strength).strength == strength


MASK = encoded(picture(mode="L"))
WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "no picture": ({"image": b"hello"}, "image", "it is not a PNG or JPEG"),
    "a missing file": ({"image": Path("/no/such.png")}, "image", "No such file"),
    "a cut header": ({"image": PNG[:20]}, "image", "damaged"),
    "a mask without an image": ({"mask": MASK}, "mask", "needs an image"),
    "a strength without an image": ({"strength": 0.5}, "strength", "needs an image"),
    "a resize without an image": ({"resize": "crop"}, "resize", "needs an image"),
    "sides without an image": ({"outpaint": OutpaintOptions(left=8)}, "outpaint", "needs an image"),
    "inpaint options without an image": ({"inpaint": InpaintOptions(blur=2)}, "inpaint", "needs an image"),
    "inpaint options without a mask": ({"image": PNG, "inpaint": InpaintOptions(blur=2)}, "inpaint", "need a mask"),
    "an image guidance without an image": ({"image_guidance_scale": 2.0}, "image_guidance_scale", "needs an image"),
    "a mask of another size": (
        {"image": PNG, "mask": encoded(picture(8, 8))},
        "mask",
        "8x8 pixels and the image 24x16",
    ),
    "a strength above 1": ({"image": PNG, "strength": 1.1}, "strength", "from 0 to 1"),
    "a strength of NaN": ({"image": PNG, "strength": float("nan")}, "strength", "from 0 to 1"),
    "another resize": ({"image": PNG, "resize": "tile"}, "resize", "one of stretch, crop, pad, latent"),
    "latents with a mask": ({"image": PNG, "mask": MASK, "resize": "latent"}, "resize", "a mask needs"),
    "another fill": ({"image": PNG, "mask": MASK, "inpaint": {"fill": "red"}}, "inpaint.fill", "one of original"),
    "a negative blur": ({"image": PNG, "mask": MASK, "inpaint": {"blur": -1}}, "inpaint.blur", "from 0 to 64"),
    "a negative padding": (
        {"image": PNG, "mask": MASK, "inpaint": {"padding": -1}},
        "inpaint.padding",
        "from 0 to 1024",
    ),
    "a negative side": ({"image": PNG, "outpaint": {"left": -8}}, "outpaint.left", "from 0 to 4096"),
    "a tiny image": ({"image": encoded(picture(1, 1))}, "size", "1x1 pixels, which is no size"),
    "a weak image guidance": ({"image": PNG, "image_guidance_scale": 0.5}, "image_guidance_scale", "from 1 to 100"),
    "a strong variation": ({"variation": Variation(strength=2)}, "variation.strength", "from 0 to 1"),
    "a variation's seed": ({"variation": Variation(seed=-1)}, "variation.seed", "from 0 to"),
    "a variation's size": ({"variation": {"resize_from": "12by7"}}, "variation.resize_from", "multiples of 8"),
    "a condition's size": (
        {"micro_conditioning": MicroConditioning(original_size="0x5")},
        "micro_conditioning.original_size",
        "expected WIDTHxHEIGHT",
    ),
    "a condition's crop": (
        {"micro_conditioning": {"crop": (-1, 0)}},
        "micro_conditioning.crop",
        "expected a whole number",
    ),
}


@pytest.mark.parametrize(("fields", "field", "sentence"), WRONG.values(), ids=WRONG)
def test_wrong_inputs_are_refused_in_a_sentence_with_their_field(
    fields: dict[str, Any], field: str, sentence: str
) -> None:
    request = SimpleNamespace(prompt="a lake", **fields)
    with pytest.raises(InvalidRequestError, match=sentence) as caught:
        ResolvedRequest.of(request, "64x64")
    assert caught.value.field == field
    assert "\n" not in str(caught.value)


@given(st.none() | st.integers() | st.floats() | st.lists(st.integers()) | st.text())
def test_any_other_value_is_refused(value: Any) -> None:
    if value is None:
        return
    with pytest.raises(InvalidRequestError):
        ResolvedRequest.of(SimpleNamespace(prompt="a", image=value), "64x64")


def _bomb() -> bytes:
    """A PNG that states 40000 x 40000 pixels."""
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def _animated() -> bytes:
    return encoded(picture(), "GIF", save_all=True, append_images=[Image.new("RGB", (24, 16))])


def _transparent() -> Image.Image:
    image = picture(mode="RGBA")
    image.putalpha(100)
    return image


HOSTILE: dict[str, tuple[Callable[[], Any], str]] = {
    "a decompression bomb": (_bomb, "million pixels"),
    "transparent parts": (_transparent, "transparent parts"),
    "16 bits": (lambda: encoded(Image.new("I;16", (24, 16))), "8 bits"),
    "cut pixels": (lambda: encoded(picture(200, 200))[:2000], "damaged"),
}


@pytest.mark.parametrize(("make", "sentence"), HOSTILE.values(), ids=HOSTILE)
def test_pictures_that_cannot_be_right_are_refused(make: Callable[[], Any], sentence: str) -> None:
    from imagegen_core.errors import PictureError

    with pytest.raises(PictureError, match=sentence):
        InputPicture(make(), "the image").rgb()


FINE: dict[str, Callable[[], Any]] = {
    "CMYK": lambda: encoded(picture(mode="CMYK"), "JPEG", quality=100),
    "a palette": lambda: encoded(picture(mode="P")),
    "opaque alpha": lambda: encoded(picture(mode="RGBA")),
    "grey": lambda: encoded(picture(mode="L")),
    "one bit": lambda: encoded(picture(mode="1")),
    "animated": _animated,
    "8192x8": lambda: encoded(Image.new("RGB", (8192, 8))),
}


@pytest.mark.parametrize("make", FINE.values(), ids=FINE)
def test_other_pictures_become_rgb(make: Callable[[], Any]) -> None:
    image = InputPicture(make()).rgb()
    assert image.mode == "RGB"
    assert image.size in ((24, 16), (8192, 8))


def test_a_backend_without_images_refuses_each_field() -> None:
    backend = Backend("mine", "", "a:B", "64x64", without=("image", "variation", "micro_conditioning"))
    for fields in ({"image": PNG}, {"variation": Variation(strength=0.1)}, {"micro_conditioning": {"crop": (1, 0)}}):
        with pytest.raises(InvalidRequestError, match="the backend 'mine'") as caught:
            backend.resolve(GenerateRequest(prompt="a", **fields))  # type: ignore[arg-type]
        assert caught.value.field in fields
    assert backend.resolve(GenerateRequest(prompt="a")).image is None


def test_a_backend_without_strength_takes_images() -> None:
    backend = Backend("mine", "", "a:B", "64x64", without=("strength",))
    assert backend.resolve(GenerateRequest(prompt="a", image=PNG)).image is not None
    with pytest.raises(InvalidRequestError, match="Invalid strength"):
        backend.resolve(GenerateRequest(prompt="a", image=PNG, strength=0.5))


def test_a_variation_is_parsed() -> None:
    assert Variation.parse("7:0.2") == Variation(seed=7, strength=0.2)
    with pytest.raises(InvalidRequestError, match="SEED:STRENGTH"):
        Variation.parse("seven")
