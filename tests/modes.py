"""Checkpoints, LoRAs and a ``modes.yaml`` for them, for the tests and benchmarks of modes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers

from imagegen_core import GenerateRequest, Job, Settings, load_worker
from imagegen_core.modes import load_modes
from tests.checkpoints import save_sd15, save_sdxl
from tests.loras import as_kohya, random_lora, save

YAML = """\
model_root: {root}
lora_root: {root}/loras
default_mode: plain
modes:
  plain:
    model: one
    default_size: 64x64
    default_steps: 2
  inked:
    model: one
    loras:
      - path: ink.safetensors
        strength: 0.8
        adapter_name: ink
      - wash.safetensors
    default_size: 64x64
    default_steps: 3
    metadata:
      description: In ink
  other:
    model: two
    default_size: 128x64
    default_steps: 2
  old:
    model: three
    default_size: 64x64
    default_guidance: 2.0
"""
NAMES = ("plain", "inked", "other", "old")


@dataclass(frozen=True)
class Zoo:
    """Three checkpoints in a folder, two LoRAs for the first, and four modes that use them."""

    root: Path
    yaml: str

    def settings(self, folder: Path, **options: Any) -> Settings:
        """Return settings with the modes in a file in `folder`."""
        (folder / "modes.yaml").write_text(self.yaml)
        on_cpu = {"device": "cpu", "dtype": "fp32"}
        return Settings.load(environ={}, modes_file=folder / "modes.yaml", **{**on_cpu, **options})

    def alone(self, folder: Path, seed: int) -> dict[str, bytes]:
        """Return each mode's picture of a seed, drawn by a worker without the other modes."""
        settings = self.settings(folder)
        pictures = {}
        for name, mode in load_modes(settings).modes.items():
            request = mode.complete(GenerateRequest(prompt="a star", seed=seed))
            pictures[name] = load_worker(settings=mode.settings).run_job(Job(req=request))[0]
        return pictures


def make_zoo(root: Path) -> Zoo:
    """Write the checkpoints and LoRAs below `root`."""
    checkpoint = save_sdxl(root / "one")
    save_sdxl(root / "two", attention_head_dim=4)
    save_sd15(root / "three")
    for seed, name in enumerate(("ink", "wash")):
        pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(checkpoint, local_files_only=True)
        save(as_kohya(random_lora(pipe, seed=seed)), root / f"loras/{name}.safetensors")
    return Zoo(root, YAML.format(root=root))
