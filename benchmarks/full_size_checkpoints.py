"""Random checkpoints of the full size, made once in a cache folder outside the repository.

Each is saved in fp16 twice: as a diffusers-format folder and as a single file.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

FAMILIES = {"sd15": 2.2e9, "sdxl": 7.0e9}
"""The bytes of each family's weights in fp16."""

_CACHE = "imagegen-full-size"
_ENOUGH = 2.0  # weights on disk: the folder and the file
_SPARE = 1e9


@dataclass(frozen=True)
class Checkpoint:
    """A random checkpoint.

    Attributes:
        family: ``sd15`` or ``sdxl``.
        folder: The diffusers-format folder.
        file: The single file with the same weights.
        tiny_decoder: The folder of a random TAESD.
    """

    family: str
    folder: Path
    file: Path
    tiny_decoder: Path

    @property
    def weights(self) -> int:
        """The bytes of the weights in fp16 or bf16."""
        return self.file.stat().st_size


def checkpoint(family: str, cache: Path | None, *, tiny: bool = False) -> Checkpoint:
    """Return a family's checkpoint; make it if the cache lacks it.

    Args:
        family: ``sd15`` or ``sdxl``.
        cache: The cache folder; None takes `cache_folder`.
        tiny: Make a checkpoint of a few hundred kilobytes with the same classes instead.

    Raises:
        SystemExit: The disk is too small.
    """
    needed = 0 if tiny else _ENOUGH * FAMILIES[family]
    cache = cache or cache_folder(family, needed)
    made = Checkpoint(family, cache / family, cache / f"{family}.safetensors", cache / "taesd")
    if not (made.folder / "model_index.json").exists() or not made.file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        _check_space(family, cache, needed)
        with tempfile.TemporaryDirectory(dir=cache) as unfinished:
            _save(made, Path(unfinished), tiny=tiny)
    if not made.tiny_decoder.exists():
        _save_tiny_decoder(made.tiny_decoder, width=8 if tiny else 64)
    return made


def cache_folder(family: str, needed: float) -> Path:
    """Return the folder that has the checkpoint, else the folder with the most free space; `needed` is in bytes."""
    places = [Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"), Path(tempfile.gettempdir())]
    places += [Path(partition.mountpoint) for partition in psutil.disk_partitions()]
    folders = [place / _CACHE for place in places if os.access(place, os.W_OK)]
    for folder in folders:
        if (folder / f"{family}.safetensors").exists():
            return folder
    for folder in folders:
        if shutil.disk_usage(folder.parent).free >= needed + _SPARE:
            return folder
    return max(folders, key=lambda folder: shutil.disk_usage(folder.parent).free)


def save_random(family: str, folder: Path, dtype: Any) -> Path:
    """Save a random checkpoint of the family's own configs in a torch dtype, with the demo's tokenizers."""
    import diffusers
    import torch
    import transformers

    torch.manual_seed(0)
    configs = ROOT / f"src/imagegen_{family}/configs"
    shutil.copytree(configs, folder, ignore=shutil.ignore_patterns("sd2"), dirs_exist_ok=True)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        for name, (library, class_name) in _parts(folder):
            if name.startswith("tokenizer"):
                shutil.copytree(ROOT / "src/imagegen_demo/checkpoint" / name, folder / name)
            elif library == "transformers":
                config = json.loads((folder / name / "config.json").read_text())
                network = getattr(transformers, class_name)(transformers.CLIPTextConfig(**config))
                network.save_pretrained(folder / name)
            elif name != "scheduler":
                config = json.loads((folder / name / "config.json").read_text())
                getattr(diffusers, class_name).from_config(config).save_pretrained(folder / name)
    finally:
        torch.set_default_dtype(default)
    return folder


def _parts(folder: Path) -> list[tuple[str, tuple[str, str]]]:
    index = json.loads((folder / "model_index.json").read_text())
    return [(name, tuple(kind)) for name, kind in index.items() if isinstance(kind, list)]


def _save(made: Checkpoint, unfinished: Path, *, tiny: bool) -> None:
    """Save a folder and a single file below `unfinished`, and move them to their places."""
    import diffusers
    import torch
    from plain_pipeline import silence

    from tests import checkpoints
    from tests.layouts import save_single_file

    silence()
    if tiny:
        getattr(checkpoints, f"save_{made.family}")(unfinished / "folder")
    else:
        save_random(made.family, unfinished / "folder", torch.float16)
    pipeline = diffusers.DiffusionPipeline.from_pretrained(
        unfinished / "folder", dtype=torch.float16, local_files_only=True
    )
    save_single_file(pipeline, unfinished / made.file.name)
    (unfinished / "folder").rename(made.folder)
    (unfinished / made.file.name).rename(made.file)


def _save_tiny_decoder(folder: Path, width: int) -> None:
    """Save a random ``AutoencoderTiny``; TAESD and TAESDXL are 64 channels wide."""
    import diffusers
    import torch

    torch.manual_seed(0)
    channels = (width,) * 4
    network = diffusers.AutoencoderTiny(encoder_block_out_channels=channels, decoder_block_out_channels=channels)
    network.half().save_pretrained(folder)


def _check_space(family: str, cache: Path, needed: float) -> None:
    free = shutil.disk_usage(cache).free
    if free < needed + _SPARE:
        raise SystemExit(
            f"{cache} has {free / 1e9:.1f} GB free, and a random {family} needs {(needed + _SPARE) / 1e9:.1f} GB: "
            "free some, or name a folder on a larger disk by --cache FOLDER"
        )
