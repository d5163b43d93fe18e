"""Where a page's code blocks are run: a shell that remembers its variables, a Python namespace, a running server."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from imagegen_core import Settings
from tests.docs.fences import Fence

LIMIT = 300  # seconds that a command may take
# Commands of the pages that no test runs, each with the reason.
EXEMPT = {
    "./install": "it installs from an index; test_install.py tests the script",
    "./install server": "it installs from an index; test_install.py tests the script",
    "python3 -m venv .venv": "it makes an environment, as the nox session wheels does",
    "python3 -m venv .venv-nox": "it makes an environment, as continuous integration does",
    ".venv-nox/bin/pip install -q nox": "it installs from an index, as continuous integration does",
    ".venv-nox/bin/nox": "it runs this test",
    "MODEL=demo .venv/bin/imagegen serve": "the server that the pages ask is started so",
    "imagegen serve": "the server that the pages ask is started so",
    "CUDA_DEVICE=cuda:0,cuda:1 imagegen serve": "it wants two GPUs",
    ". .venv/bin/activate": "the environment is the tests' own",
    (
        'pip install -c constraints.txt -e "src/imagegen_core[diffusers]" '
        "-e src/imagegen_sdxl -e src/imagegen_sd15 -e src/imagegen_demo"
    ): "it installs from an index",
    "pip install -c constraints.txt pytest hypothesis ruff mypy pre-commit": "it installs from an index",
    "pre-commit install": "it changes the repository",
    'pip install "imagegen-core[server]" imagegen-sdxl': "it installs from an index",
    "pip install imagegen-sdxl": "it installs from an index",
    'pip install "imagegen-core[ray,redis]" imagegen-sdxl': "it installs from an index",
    "imagegen serve --engine ray --replicas 2": "tests/cluster does it",
    "ray start --head": "tests/cluster does it",
    "ray start --address=FIRST:6379": "it wants a second machine; tests/cluster has a second node",
    "serve deploy serve.yaml": "tests/cluster does it",
    "pip install --no-deps --require-hashes -r requirements.lock": "it installs from an index; nox -s audit does one",
    "pip install --no-deps ./src/imagegen_core ./src/imagegen_sdxl ./src/imagegen_demo": "it installs into the tests",
    "serve status": "it asks a cluster, which tests/cluster has",
}
_JOB = re.compile(r"job-[0-9a-f][0-9a-f-]+")


class Desk:
    """One page's surroundings: its folder, its environment, and what stands for what the page assumes."""

    def __init__(self, folder: Path, environ: Mapping[str, str], stands_for: Mapping[str, str]) -> None:
        """Nothing is run yet.

        Args:
            folder: Where the page's commands run.
            environ: What they find in the environment.
            stands_for: Words of the page, with what the test has in their place.
        """
        self.folder = folder
        self.stands_for = dict(stands_for)
        self.names: dict[str, Any] = {"__name__": "page"}
        self._state = folder / ".state"
        self._state.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in environ.items()))

    def run(self, fence: Fence) -> None:
        """Do what a code block says; one that is a file of an example is run where that is tested."""
        if fence.included is not None:
            return
        match fence.language:
            case "sh":
                for command in commands(fence):
                    if command not in EXEMPT:
                        self._shell(fence, command)
            case "python":
                exec(compile(self._meant(fence.text), str(fence), "exec"), self.names)
            case "toml":
                (self.folder / "page.toml").write_text(self._meant(fence.text))
                Settings.load(environ={"IMAGEGEN_CONFIG": str(self.folder / "page.toml")})
            case "json":
                json.loads(fence.text)
            case "text":
                pass  # what is printed, or a drawing; test_messages.py holds the guides' to the truth
            case other:
                raise AssertionError(f"{fence}: say which language it is, not {other!r}")

    def _shell(self, fence: Fence, command: str) -> None:
        """Run a command in bash, with the variables and the folder that those before it left."""
        meant = self._meant(command)
        script = f"source {self._state}\nset -euo pipefail\n{meant}\nexport -p > {self._state}"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env={},
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        assert done.returncode == 0, f"{fence}: `{meant}` ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        for job in _JOB.findall(done.stdout):
            self.stands_for["job-…"] = job

    def _meant(self, text: str) -> str:
        for word, meaning in self.stands_for.items():
            text = text.replace(word, meaning)
        return text


def commands(fence: Fence) -> Iterator[str]:
    """The commands of a shell block, without comments."""
    for line in fence.text.replace("\\\n", " ").splitlines():
        said = re.sub(r"(^|\s+)#.*$", "", line)
        yield from (command.strip() for command in said.split(" && ") if command.strip())
