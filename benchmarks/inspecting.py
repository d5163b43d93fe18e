"""Measure the inspection of a sparse checkpoint of 7 GB and 2515 tensors: `describe`, safetensors and the command."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from math import prod
from pathlib import Path

from figures import show, spread
from safetensors import safe_open

from imagegen_core.models.inspect import describe

IMAGEGEN = str(Path(sys.executable).with_name("imagegen"))
UNET, VAE = "model.diffusion_model.", "first_stage_model."
# The marks of an SDXL checkpoint; `_sparse` adds blocks up to 2515 tensors and 7 GB.
MARKS = {
    f"{UNET}input_blocks.0.0.weight": (320, 4, 3, 3),
    f"{UNET}out.2.weight": (4, 320, 3, 3),
    f"{UNET}label_emb.0.0.weight": (1280, 2816),
    f"{UNET}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (640, 2048),
    f"{VAE}decoder.conv_in.weight": (512, 4, 3, 3),
    f"{VAE}decoder.up.0.block.0.conv1.weight": (128, 256, 3, 3),
    "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight": (49408, 768),
    "conditioner.embedders.1.model.token_embedding.weight": (49408, 1280),
}
TENSORS = 2515


def main() -> None:
    """Run the measurements and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        path = _sparse(Path(folder, "sdxl.safetensors"))
        ways: dict[str, Callable[[], object]] = {
            "safetensors.safe_open": lambda: safe_open(path, "np").keys(),
            "describe": lambda: describe(path),
            "imagegen --version": lambda: _run(IMAGEGEN, "--version"),
            "imagegen models inspect": lambda: _run(IMAGEGEN, "models", "inspect", str(path)),
        }
        milliseconds: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(rounds + 1):
            for name, way in ways.items():
                started = time.perf_counter()
                way()
                if turn > 0:  # the first round fills the disk cache
                    milliseconds[name].append(1000 * (time.perf_counter() - started))
        checkpoint = describe(path)
    base = {"describe": "safetensors.safe_open", "imagegen models inspect": "imagegen --version"}
    print(f"{checkpoint.size / 1e9:.1f} GB, {TENSORS} tensors: {checkpoint.kind}, {checkpoint.family}\n")
    show(
        ["way", "ms", "ratio"],
        [
            [name, spread(times, 1), _ratio(times, milliseconds[base[name]]) if name in base else ""]
            for name, times in milliseconds.items()
        ],
    )


def _ratio(times: list[float], base: list[float]) -> str:
    return spread([above / below for above, below in zip(times, base, strict=True)])


def _sparse(path: Path) -> Path:
    """Write an SDXL checkpoint's header and a sparse file of its size; it takes a few hundred kB of the disk."""
    block = f"{UNET}output_blocks.0.1.transformer_blocks.9.ff.net."
    shapes = MARKS | {f"{UNET}output_blocks.0.0.in_layers.0.weight": (2560,)}
    shapes |= {f"{block}{number}.weight": (1280, 1060) for number in range(TENSORS - len(shapes))}
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


if __name__ == "__main__":
    main()
