"""Measure the peak memory while a checkpoint loads, relative to its weights, for a few hundred megabytes."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from figures import show, spread

sys.path.insert(0, str(Path(__file__).parent.parent))

# In a child process: measure the memory of interpreter and libraries first, and subtract it. Draw one small picture
# after the loading, to include the memory of the first use of the weights.
CHILD = """
import sys
from imagegen_core import GenerateRequest, Job, Settings
from imagegen_sdxl import DiffusersSDXLCudaWorker
from peak_memory import PeakMemory

def load(path):
    worker = DiffusersSDXLCudaWorker(settings=Settings(model=path, device="cpu", dtype=sys.argv[3]))
    worker.run_job(Job(req=GenerateRequest(prompt="a", size="64x64", num_inference_steps=1)))
    return worker

load(sys.argv[1])  # a tiny checkpoint, to load all libraries
with PeakMemory() as memory:
    worker = load(sys.argv[2])
modules = [worker.pipe.unet, worker.pipe.vae, worker.pipe.text_encoder, worker.pipe.text_encoder_2]
size = sum(tensor.numel() * tensor.element_size() for module in modules for tensor in module.state_dict().values())
print(size, memory.growth["total"], memory.growth["anonymous"])
"""


def save_checkpoints(folder: Path) -> tuple[str, str]:
    """Save two random SDXL checkpoints in fp32: a tiny checkpoint, and a checkpoint of about 400 MB."""
    from tests.checkpoints import save_sdxl

    large = {"block_out_channels": (192, 576), "layers_per_block": 2, "attention_head_dim": 64}
    return str(save_sdxl(folder / "tiny")), str(save_sdxl(folder / "large", **large))


def main() -> None:
    """Run the measurements and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = save_checkpoints(Path(folder))
        for dtype in ("fp32", "bf16"):
            measured = [_load(*checkpoints, dtype) for _ in range(rounds)]
            size = measured[0][0]
            ratios = [spread([run[column] / size for run in measured]) for column in (1, 2)]
            rows.append([dtype, f"{size / 1e6:.0f}", *ratios])
    show(["loaded as", "weights in memory, MB", "peak resident / weights", "of this, not backed by the file"], rows)


def _load(tiny: str, large: str, dtype: str) -> tuple[int, ...]:
    command = [sys.executable, "-c", CHILD, tiny, large, dtype]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent)
    return tuple(map(int, done.stdout.split()))


if __name__ == "__main__":
    main()
