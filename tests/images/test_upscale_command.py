"""``imagegen upscale``: what it writes, what it keeps, and what it refuses."""

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
def _only_lanczos(install: Installer, monkeypatch: pytest.MonkeyPatch) -> None:
    """No plugin is installed, and networks compute on the CPU."""
    monkeypatch.setenv("CUDA_DEVICE", "cpu")


def _run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["upscale", *arguments])
    return int(ended.value.code or 0), *capfd.readouterr()


def _noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (height, width, channels), dtype=np.uint8)


def _picture(name: str = "in.png", **options: object) -> Path:
    Image.fromarray(_noise(6, 10)).save(name, **options)
    return Path(name)


def test_it_enlarges_a_picture(capfd: pytest.CaptureFixture[str]) -> None:
    _picture()
    assert _run(capfd, "in.png", "-o", "out.png") == (0, "", "out.png  20x12, lanczos\n")
    wanted = Image.fromarray(_noise(6, 10)).resize((20, 12), Image.Resampling.LANCZOS)
    assert np.array_equal(np.asarray(Image.open("out.png")), np.asarray(wanted))


def test_passes_and_upscaler_are_chosen(capfd: pytest.CaptureFixture[str]) -> None:
    _picture()
    torch.save(networks.compact(scale=3), "mine.pth")
    code, _, err = _run(capfd, "in.png", "-o", "out.png", "--passes", "2", "--upscaler", "mine.pth")
    assert (code, err) == (0, "out.png  90x54, mine\n")


def test_a_pipe_gets_the_picture_and_nothing_else() -> None:
    _picture()
    command = [sys.executable, "-c", "from imagegen_core.cli import main; main()", "upscale", "in.png", "-o", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert Image.open(io.BytesIO(done.stdout)).size == (20, 12)
    assert done.stderr == b""


def test_a_recipe_is_kept_and_extended(capfd: pytest.CaptureFixture[str]) -> None:
    Path("in.png").write_bytes(encode_png(_noise(6, 10), to_text(RECIPE) | {"Author": "me"}))
    assert _run(capfd, "in.png", "-o", "once.png", "--passes", "2")[0] == 0
    assert _run(capfd, "once.png", "-o", "twice.png")[0] == 0
    once = replace(RECIPE, upscalings=(Upscaling("lanczos", 4),))
    assert read_recipe(Path("once.png")) == once
    assert read_recipe(Path("twice.png")) == replace(once, upscalings=(*once.upscalings, Upscaling("lanczos", 2)))
    with Image.open("twice.png") as twice:
        assert "Postprocess upscale by: 8" in twice.text["parameters"]
        assert twice.text["Author"] == "me"


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


def test_the_kinds_of_picture_there_are(capfd: pytest.CaptureFixture[str]) -> None:
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


def test_untidy_metadata_is_no_obstacle(capfd: pytest.CaptureFixture[str]) -> None:
    _picture("in.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0")
    assert _run(capfd, "in.jpg", "-o", "out.png")[2] == "out.png  20x12, lanczos\n"


def test_opaque_transparency_is_no_obstacle(capfd: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(_noise(6, 10)).convert("RGBA").save("in.png")
    assert _run(capfd, "in.png", "-o", "out.png")[0] == 0


def _png_header_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""
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
    "no picture": (b"a text", [], "Cannot read in.png: it is no PNG or JPEG or WEBP or BMP or GIF; give one"),
    "what Pillow runs a program for": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EOF\n",
        [],
        "it is no PNG or",
    ),
    "empty": (b"", [], "Cannot read in.png: it is no PNG"),
    "cut short": (GOOD[:-60], [], "Cannot read in.png: it is damaged or cut short"),
    "a bomb": (_png_header_of(10_000, 10_000), [], "it unpacks to more than 89 million pixels; give a smaller one"),
    "a larger bomb": (_png_header_of(2**31 - 1, 2**31 - 1), [], "it unpacks to more than 89 million pixels"),
    "too large a result": (LARGE, ["--passes", "3"], "Cannot upscale 2000x2000 by 8: 16000x16000 is more than"),
    "transparent": (_transparent(), [], "Cannot use in.png: it has transparent parts; fill its background first"),
    "16 bits": (_sixteen_bits(), [], "Cannot use in.png: it has more than 8 bits a channel"),
    "passes": (GOOD, ["--passes", "4"], "Invalid value for '--passes'"),
    "upscaler": (GOOD, ["--upscaler", "gone"], "No upscaler 'gone': choose lanczos, or give the path of a .pth or"),
    "upscaler's file": (GOOD, ["--upscaler", "gone.pth"], "No upscaler gone.pth: give the path"),
    "no folder": (GOOD, ["-o", "gone/out.png"], "the folder gone does not exist"),
    "no PNG": (GOOD, ["-o", "out.jpg"], "pictures are PNG files, so name it out.png"),
}


@pytest.mark.parametrize(("content", "arguments", "words"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_one_sentence_and_exit_code_2(
    capfd: pytest.CaptureFixture[str], content: bytes | None, arguments: list[str], words: str
) -> None:
    if content is not None:
        Path("in.png").write_bytes(content)
    before = os.listdir()
    code, out, err = _run(capfd, "in.png", "-o", "out.png", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert words in err
    assert err.count("\n") == 1
    assert os.listdir() == before


def test_without_torch_a_networks_file_is_refused() -> None:
    _picture()
    torch.save(networks.compact(), "mine.pth")
    code = "import sys; sys.modules['torch'] = None; from imagegen_core.cli import main; main()"
    command = [sys.executable, "-c", code, "upscale", "in.png", "-o", "out.png", "--upscaler", "mine.pth"]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == 2
    assert "needs the module 'torch', which is not installed; pip install 'imagegen-core[upscale]'" in done.stderr
