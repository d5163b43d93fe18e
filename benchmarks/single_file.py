"""Compare loading a single file of about 400 MB with `from_single_file`; both have local configs.

Each load has its own process, in turn. The process first imports the libraries and loads a tiny checkpoint, without
measuring. With transformers 5, `from_single_file` of diffusers 0.42 leaves part of the text encoders without weights.
These encoders are small here, and its figures leave them out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from figures import show, spread

sys.path.insert(0, str(Path(__file__).parent.parent))

CHILD = """
import json, sys, time
import diffusers, torch
from pathlib import Path
from imagegen_core.diffusion.loading import load_pipeline
from imagegen_core.diffusion.single_file import load_single_file
from imagegen_sdxl.families import SDXL

def resident():
    fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return 1024 * int(fields["VmHWM"].split()[0]), 1024 * int(fields["VmRSS"].split()[0])

def load(file, folder):
    if sys.argv[1] == "ours":
        folder = Path(folder)
        pipe = load_pipeline(
            "StableDiffusionXLPipeline",
            Path(file),
            dtype,
            configs=folder,
            base=folder,
            load_file=lambda path, vae: load_single_file(path, dtype, folder, folder, vae, family=SDXL),
        )
    else:
        load_theirs = diffusers.StableDiffusionXLPipeline.from_single_file
        pipe = load_theirs(file, config=folder, torch_dtype=dtype, local_files_only=True)
    loaded = time.perf_counter()
    modules = [pipe.unet, pipe.vae, pipe.text_encoder, pipe.text_encoder_2]
    tensors = [tensor for module in modules for tensor in module.state_dict().values() if not tensor.is_meta]
    # Touch every weight: diffusers maps weights without a conversion, and reads them at the first use.
    total = sum(tensor.float().sum().item() for tensor in tensors)
    return loaded, sum(tensor.numel() * tensor.element_size() for tensor in tensors)

dtype = getattr(torch, sys.argv[2])
load(*sys.argv[3:5])
before = resident()[1]
open("/proc/self/clear_refs", "w").write("5")
started = time.perf_counter()
loaded, size = load(*sys.argv[5:7])
used = time.perf_counter()
print(json.dumps([loaded - started, used - started, (resident()[0] - before) / size, size]))
"""


def save_checkpoints(folder: Path) -> list[str]:
    """Save a tiny and a large random SDXL checkpoint, each as a file and as a folder."""
    import diffusers

    from tests.checkpoints import save_sdxl
    from tests.layouts import save_single_file

    large = {"block_out_channels": (192, 576), "layers_per_block": 2, "attention_head_dim": 64}
    paths = []
    for name, unet in (("tiny", {}), ("large", large)):
        saved = save_sdxl(folder / name, **unet)
        pipeline = diffusers.StableDiffusionXLPipeline.from_pretrained(saved, local_files_only=True)
        paths += [str(save_single_file(pipeline, folder / f"{name}.safetensors")), str(saved)]
    return paths


def main() -> None:
    """Run the measurements and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        paths = save_checkpoints(Path(folder))
        for dtype in ("float32", "bfloat16"):
            runs = [(_load("theirs", dtype, paths), _load("ours", dtype, paths)) for _ in range(rounds)]
            rows.append(
                [
                    dtype,
                    f"{runs[0][1][3] / 1e6:.0f}",
                    spread([theirs[0] for theirs, _ in runs], 3),
                    spread([ours[0] / theirs[0] for theirs, ours in runs]),
                    spread([ours[1] / theirs[1] for theirs, ours in runs]),
                    spread([theirs[2] for theirs, _ in runs]),
                    spread([ours[2] for _, ours in runs]),
                ]
            )
    heading = [
        "loaded as",
        "weights, MB",
        "from_single_file, s",
        "ours, ratio",
        "with a first use of each weight",
        "its peak / weights",
        "our peak / weights",
    ]
    show(heading, rows)


def _load(side: str, dtype: str, paths: list[str]) -> list[float]:
    command = [sys.executable, "-c", CHILD, side, dtype, *paths]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
