"""Compare PNG encoders with Pillow's default, in turn: CPU time and size, for pictures like those of a VAE.

A VAE's output is never flat. So the scenes have noise of half a level or one level, and the photo-like picture also has
texture and edges. A scene without noise, the drawing, shows the cost of the choice for flat pictures.
Missing encoders are skipped: ``pip install isal zlib-ng`` for all of them.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import io
import random
import struct
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from figures import show, spread
from PIL import Image

from imagegen_core.images.png import encode_png

sys.path.insert(0, str(Path(__file__).parent.parent))

SIDE = 1024
Pixels = npt.NDArray[np.uint8]
Encoder = Callable[[Pixels], bytes]


def scene(noise: float) -> Pixels:
    """Return four of the demo's scenes, enlarged, with normal noise of `noise` levels."""
    from training.scenes.render import render
    from training.scenes.scene import random_scene

    rng = random.Random(1)
    drawn = [[render(random_scene(rng), rng) for _ in range(2)] for _ in range(2)]
    joined = np.concatenate([np.concatenate(row, axis=1) for row in drawn])
    return _noisy(np.asarray(Image.fromarray(joined).resize((SIDE, SIDE), Image.Resampling.BICUBIC)), noise)


def photo() -> Pixels:
    """Return gradients, texture at six scales, 25 discs with hard edges, and noise of one level."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    picture = np.stack([180 + 60 * y - 40 * x, 120 + 80 * x * y, 200 - 100 * y], axis=-1)
    for octave in range(3, 9):
        grid = Image.fromarray(rng.normal(size=(2**octave + 1,) * 2).astype(np.float32))
        texture = np.asarray(grid.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        picture += (60 / 2 ** (0.6 * octave) * texture)[..., None] * (1.0, 0.9, 0.7)
    for _ in range(25):
        (centre_x, centre_y), radius = rng.random(2), rng.uniform(0.02, 0.15)
        disc = (x - centre_x) ** 2 + (y - centre_y) ** 2 < radius**2
        picture[disc] = 0.4 * picture[disc] + 0.6 * rng.integers(0, 255, 3)
    return _noisy(picture, 1.0)


def _noisy(picture: npt.NDArray[Any], noise: float) -> Pixels:
    levels = picture + noise * np.random.default_rng(2).normal(size=picture.shape)
    return levels.clip(0, 255).round().astype(np.uint8)


def with_pillow(pixels: Pixels, **options: int) -> bytes:
    """Encode with Pillow; it chooses a filter for each row."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", **options)
    return buffer.getvalue()


def with_average_filter(pixels: Pixels, compress: Callable[[bytes], bytes]) -> bytes:
    """Apply the average filter to every row, then a compressor: https://www.w3.org/TR/png-3/#9Filters."""
    height, width, channels = pixels.shape
    around = np.zeros((height + 1, width + 1, channels), np.uint16)
    around[1:, 1:] = pixels
    average = ((around[:-1, 1:] + around[1:, :-1]) // 2).astype(np.uint8)
    rows = np.full((height, 1 + width * channels), 3, np.uint8)
    rows[:, 1:] = (pixels - average).reshape(height, -1)
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", compress(rows.tobytes())),
        (b"IEND", b""),
    )
    chunks = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def run_lengths(content: bytes, library: Any) -> bytes:
    """Deflate with only run lengths and Huffman codes."""
    compressor = library.compressobj(1, strategy=library.Z_RLE)
    return compressor.compress(content) + compressor.flush()  # type: ignore[no-any-return]


def encoders() -> dict[str, Encoder]:
    """Return the encoders by their names in the table; the first is the baseline."""
    available: dict[str, Encoder] = {
        "Pillow's default": with_pillow,
        "encode_png": encode_png,
        "Pillow, level 1": functools.partial(with_pillow, compress_level=1),
        "Pillow, level 4": functools.partial(with_pillow, compress_level=4),
        "Pillow, only Huffman codes": functools.partial(with_pillow, compress_type=zlib.Z_HUFFMAN_ONLY),
        "numpy + zlib, run lengths": functools.partial(
            with_average_filter, compress=functools.partial(run_lengths, library=zlib)
        ),
    }
    if isal := _optional("isal.isal_zlib"):
        available["numpy + isal, level 1"] = functools.partial(
            with_average_filter, compress=functools.partial(isal.compress, level=1)
        )
    if zlib_ng := _optional("zlib_ng.zlib_ng"):
        available["numpy + zlib-ng, run lengths"] = functools.partial(
            with_average_filter, compress=functools.partial(run_lengths, library=zlib_ng)
        )
    return available


def _optional(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


def main() -> None:
    """Run the measurements and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    rounds = parser.parse_args().rounds
    pictures = {
        "photo-like": photo(),
        "scenes, noise 1": scene(1.0),
        "scenes, noise 0.5": scene(0.5),
        "drawing": scene(0),
    }
    rows = []
    for title, pixels in pictures.items():
        seconds: dict[str, list[float]] = {name: [] for name in encoders()}
        sizes = {}
        for _ in range(rounds):
            for name, encode in encoders().items():
                started = time.process_time()
                png = encode(pixels)
                seconds[name].append(time.process_time() - started)
                sizes[name] = len(png)
                if not np.array_equal(np.asarray(Image.open(io.BytesIO(png))), pixels):
                    raise SystemExit(f"{name} changed the pixels of {title}")
        default, *_ = seconds
        for name, times in seconds.items():
            ratios = [own / plain for own, plain in zip(times, seconds[default], strict=True)]
            milliseconds = spread([1000 * value for value in times], 0)
            rows.append([title, name, milliseconds, spread(ratios), f"{sizes[name] / sizes[default]:.3f}"])
    show([f"picture, {SIDE}x{SIDE}", "encoder", "CPU ms", "time, ratio", "size, ratio"], rows)


if __name__ == "__main__":
    main()
