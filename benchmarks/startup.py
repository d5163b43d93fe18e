"""Measure start-up in turn: bare Python, imports of the core, `imagegen --help` and `imagegen plugins list`."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from figures import show, spread

IMAGEGEN = str(Path(sys.executable).with_name("imagegen"))
COMMANDS = {
    "bare Python": [sys.executable, "-c", "pass"],
    "import imagegen_core": [sys.executable, "-c", "import imagegen_core"],
    "a plugin module": [sys.executable, "-c", "import imagegen_sdxl.plugin"],
    "from imagegen_core import GenerateRequest": [sys.executable, "-c", "from imagegen_core import GenerateRequest"],
    "imagegen --help": [IMAGEGEN, "--help"],
    "imagegen plugins list": [IMAGEGEN, "plugins", "list"],
}


def main() -> None:
    """Run the measurements and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    rounds = parser.parse_args().rounds
    milliseconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(rounds + 1):
        for name, command in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            if turn > 0:  # the first round fills the disk cache
                milliseconds[name].append(1000 * (time.perf_counter() - started))
    above = {
        name: [own - bare for own, bare in zip(times, milliseconds["bare Python"], strict=True)]
        for name, times in milliseconds.items()
    }
    show(
        ["command", "ms", "ms above bare Python"],
        [[name, spread(times, 0), spread(above[name], 0)] for name, times in milliseconds.items()],
    )


if __name__ == "__main__":
    main()
