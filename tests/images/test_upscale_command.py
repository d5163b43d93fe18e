"""``imagegen upscale``: its pictures, the text it keeps, and its errors."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imagegen_core.cli import main
from imagegen_core.images.png import encode_png
from imagegen_core.images.recipe import Upscaling, read_recipe, to_text
from tests.images import networks
from tests.images.test_recipe import RECIPE
from tests.plugins.installed import Installer


@pytest.fixture(autouse=True)
def _no_plugins(install: Installer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide installed plugins, and compute on the CPU."""
    monkeypatch.setenv("CUDA_DEVICE", "cpu")


def _run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_info:
        main(["upscale", *arguments])
    return int(exit_info.value.code or 0), *capfd.readouterr()


def _noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (height, width, channels), dtype=np.uint8)


def _picture(name: str = "in.png", **options: object) -> Path:
    Image.fromarray(_noise(6, 10)).save(name, **options)
    return Path(name)


def test_a_picture_is_enlarged(capfd: pytest.CaptureFixture[str]) -> None:
    _picture()
    assert _run(capfd, "in.png", "-o", "out.png") == (0, "", "out.png  20x12, lanczos\n")
    expected = Image.fromarray(_noise(6, 10)).resize((20, 12), Image.Resampling.LANCZOS)
    assert np.array_equal(np.asarray(Image.open("out.png")), np.asarray(expected))


def test_options_choose_the_passes_and_the_upscaler(capfd: pytest.CaptureFixture[str]) -> None:
    _picture()
    torch.save(networks.compact(scale=3), "mine.pth")
    code, _, err = _run(capfd, "in.png", "-o", "out.png", "--passes", "2", "--upscaler", "mine.pth")
    assert (code, err) == (0, "out.png  90x54, mine\n")


def test_a_pipe_gets_the_picture_and_nothing_else() -> None:
    _picture()
    command = [sys.executable, "-c", "from imagegen_core.cli import main; main()", "upscale", "in.png", "-o", "-"]
    completed = subprocess.run(command, capture_output=True, check=True)
    assert Image.open(io.BytesIO(completed.stdout)).size == (20, 12)
    assert completed.stderr == b""


def test_a_recipe_is_kept_and_extended(capfd: pytest.CaptureFixture[str]) -> None:
    Path("in.png").write_bytes(encode_png(_noise(6, 10), to_text(RECIPE) | {"Author": "me"}))
    assert _run(capfd, "in.png", "-o", "once.png", "--passes", "2")[0] == 0
    assert _run(capfd, "once.png", "-o", "twice.png")[0] == 0
    recipe = replace(RECIPE, upscalings=(Upscaling("lanczos", 4),))
    assert read_recipe(Path("once.png")) == recipe
    assert read_recipe(Path("twice.png")) == replace(recipe, upscalings=(*recipe.upscalings, Upscaling("lanczos", 2)))
    with Image.open("twice.png") as image:
        assert "Postprocess upscale by: 8" in image.text["parameters"]
        assert image.text["Author"] == "me"


def test_text_of_other_programs_is_kept(capfd: pytest.CaptureFixture[str]) -> None:
    text = {"parameters": "湖\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 10x6"}
    Path("in.png").write_bytes(encode_png(_noise(6, 10), text))
    assert _run(capfd, "in.png", "-o", "out.png")[0] == 0
    with Image.open("out.png") as out:
        assert out.text == text


def test_a_damaged_recipe_is_kept_with_a_warning(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    Path("in.png").write_bytes(encode_png(_noise(6, 10), {"imagegen": "{"}))
    code, _, _ = _run(capfd, "in.png", "-o", "out.png")
    assert code == 0
    assert "Cannot read the recipe of in.png: it is damaged" in caplog.text
    with Image.open("out.png") as out:
        assert out.text == {"imagegen": "{"}


def test_pictures_of_every_mode_become_rgb(capfd: pytest.CaptureFixture[str]) -> None:
    rgb = Image.fromarray(_noise(6, 10))
    for mode in ("1", "L", "P", "CMYK", "YCbCr"):
        rgb.convert(mode).save("in.jpg" if mode in ("CMYK", "YCbCr") else "in.png")
        Path("in").write_bytes(Path("in.jpg" if mode in ("CMYK", "YCbCr") else "in.png").read_bytes())
        assert _run(capfd, "in", "-o", "out.png")[0] == 0
        with Image.open("out.png") as out:
            assert (out.mode, out.size) == ("RGB", (20, 12))


def test_a_photo_is_turned_upright(capfd: pytest.CaptureFixture[str]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held sideways
    _picture("in.jpg", exif=exif)
    assert _run(capfd, "in.jpg", "-o", "out.png")[2] == "out.png  12x20, lanczos\n"


def test_damaged_exif_is_ignored(capfd: pytest.CaptureFixture[str]) -> None:
    _picture("in.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0")
    assert _run(capfd, "in.jpg", "-o", "out.png")[2] == "out.png  20x12, lanczos\n"


def test_an_opaque_alpha_channel_is_accepted(capfd: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(_noise(6, 10)).convert("RGBA").save("in.png")
    assert _run(capfd, "in.png", "-o", "out.png")[0] == 0


def _png_header_of(width: int, height: int) -> bytes:
    """Return a PNG that declares a size and has no pixels."""
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    ]
    chunks = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _sixteen_bits() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(buffer, format="PNG")
    return buffer.getvalue()


def _transparent() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(_noise(6, 10, 4)).save(buffer, format="PNG")
    return buffer.getvalue()


GOOD = encode_png(_noise(6, 10))
LARGE = encode_png(np.zeros((2000, 2000, 3), np.uint8))
WRONG: dict[str, tuple[bytes | None, list[str], str]] = {
    "missing": (None, [], "Cannot read in.png: No such file or directory; give the path of a picture"),
    "not a picture": (b"a text", [], "Cannot read in.png: it is not a PNG or JPEG or WEBP or BMP or GIF; give one"),
    "a format that Pillow opens with a program": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EOF\n",
        [],
        "it is not a PNG or",
    ),
    "empty": (b"", [], "Cannot read in.png: it is not a PNG"),
    "cut short": (GOOD[:-60], [], "Cannot read in.png: it is damaged or cut short"),
    "a bomb": (_png_header_of(10_000, 10_000), [], "it unpacks to more than 89 million pixels; give a smaller one"),
    "a larger bomb": (_png_header_of(2**31 - 1, 2**31 - 1), [], "it unpacks to more than 89 million pixels"),
    "a result too large": (LARGE, ["--passes", "3"], "Cannot upscale 2000x2000 by 8: 16000x16000 is more than"),
    "transparent": (_transparent(), [], "Cannot use in.png: it has transparent parts; fill its background first"),
    "16 bits": (_sixteen_bits(), [], "Cannot use in.png: it has more than 8 bits a channel"),
    "invalid passes": (GOOD, ["--passes", "4"], "Invalid value for '--passes'"),
    "unknown upscaler": (
        GOOD,
        ["--upscaler", "gone"],
        "No upscaler 'gone': choose lanczos, or give the path of a .pth or",
    ),
    "missing upscaler file": (GOOD, ["--upscaler", "gone.pth"], "No upscaler gone.pth: give the path"),
    "missing folder": (GOOD, ["-o", "gone/out.png"], "the folder gone does not exist"),
    "output other than PNG": (GOOD, ["-o", "out.jpg"], "pictures are PNG files, so name it out.png"),
}


@pytest.mark.parametrize(("content", "arguments", "message"), WRONG.values(), ids=WRONG)
def test_invalid_input_gives_a_one_line_error_and_exit_code_2(
    capfd: pytest.CaptureFixture[str], content: bytes | None, arguments: list[str], message: str
) -> None:
    if content is not None:
        Path("in.png").write_bytes(content)
    before = os.listdir()
    code, out, err = _run(capfd, "in.png", "-o", "out.png", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert message in err
    assert err.count("\n") == 1
    assert os.listdir() == before


def test_a_network_file_is_refused_without_torch() -> None:
    _picture()
    torch.save(networks.compact(), "mine.pth")
    code = "import sys; sys.modules['torch'] = None; from imagegen_core.cli import main; main()"
    command = [sys.executable, "-c", code, "upscale", "in.png", "-o", "out.png", "--upscaler", "mine.pth"]
    completed = subprocess.run(command, capture_output=True, check=False, text=True)
    assert completed.returncode == 2
    assert "needs the module 'torch', which is not installed; pip install 'imagegen-core[upscale]'" in completed.stderr
