"""The runner of a page's code blocks, with a shell that keeps its variables, a Python namespace and a server."""

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

LIMIT = 300  # seconds for a command
# Commands of the pages that no test runs, each with the reason.
EXEMPT = {
    "./install": "it installs from an index; test_install.py tests the script",
    "./install server": "it installs from an index; test_install.py tests the script",
    "python3 -m venv .venv": "it makes an environment, as the nox session wheels does",
    "python3 -m venv .venv-nox": "it makes an environment, as continuous integration does",
    ".venv-nox/bin/pip install -q nox": "it installs from an index, as continuous integration does",
    ".venv-nox/bin/nox": "it runs this test",
    "MODEL=demo .venv/bin/imagegen serve": "a fixture starts the server of the pages",
    "imagegen serve": "a fixture starts the server of the pages",
    "CUDA_DEVICE=cuda:0,cuda:1 imagegen serve": "it needs two GPUs",
    ". .venv/bin/activate": "the environment is the tests' own",
    (
        'pip install -c constraints.txt -e "src/imagegen_core[diffusers]" '
        "-e src/imagegen_sdxl -e src/imagegen_sd15 -e src/imagegen_sd3 -e src/imagegen_flux "
        "-e src/imagegen_diffusers -e src/imagegen_openvino -e src/imagegen_demo"
    ): "it installs from an index",
    "pip install -c constraints.txt pytest hypothesis ruff mypy pre-commit": "it installs from an index",
    "pre-commit install": "it changes the repository",
    'pip install "imagegen-core[server]" imagegen-sdxl': "it installs from an index",
    "pip install imagegen-sdxl": "it installs from an index",
    'pip install "imagegen-core[ray,redis]" imagegen-sdxl': "it installs from an index",
    "imagegen serve --engine ray --replicas 2": "tests/cluster runs it",
    "ray start --head": "tests/cluster runs it",
    "ray start --address=FIRST:6379": "it needs a second machine; tests/cluster has a second node",
    "serve deploy serve.yaml": "tests/cluster runs it",
    "pip install --no-deps --require-hashes -r requirements.lock": "it installs from an index, as nox -s audit does",
    "pip install --no-deps ./src/imagegen_core ./src/imagegen_sdxl ./src/imagegen_demo": "it changes the environment",
    "serve status": "it needs a cluster; tests/cluster has one",
}
_JOB = re.compile(r"job-[0-9a-f][0-9a-f-]+")


class PageRunner:
    """The surroundings of one page: its folder, its environment, and replacements for its assumptions."""

    def __init__(self, folder: Path, environ: Mapping[str, str], replacements: Mapping[str, str]) -> None:
        """Prepare the environment; run nothing yet.

        Args:
            folder: The working directory of the page's commands.
            environ: The environment variables of the commands.
            replacements: Words of the page, with the test's replacements.
        """
        self.folder = folder
        self.replacements = dict(replacements)
        self.names: dict[str, Any] = {"__name__": "page"}
        self._state = folder / ".state"
        self._state.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in environ.items()))

    def run(self, fence: Fence) -> None:
        """Run a code block, unless it is a file of an example, which the example's own tests run."""
        if fence.included is not None:
            return
        match fence.language:
            case "sh":
                for command in commands(fence):
                    if command not in EXEMPT:
                        self._shell(fence, command)
            case "python" if fence.title:
                install_module(fence, self.folder / "site")
            case "python":
                exec(compile(self._replace(fence.text), str(fence), "exec"), self.names)
            case "toml":
                (self.folder / "page.toml").write_text(self._replace(fence.text))
                Settings.load(environ={"IMAGEGEN_CONFIG": str(self.folder / "page.toml")})
            case "json":
                json.loads(fence.text)
            case "text" | "pyi":
                pass  # output, a drawing, or signatures; test_messages.py checks the messages of the guides
            case language:
                raise AssertionError(f"{fence}: expected a known language, not {language!r}")

    def _shell(self, fence: Fence, command: str) -> None:
        """Run a command in bash, with the folder and the variables that earlier commands left."""
        replaced = self._replace(command)
        script = f"source {self._state}\nset -euo pipefail\n{replaced}\nexport -p > {self._state}"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env={},
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        assert done.returncode == 0, f"{fence}: `{replaced}` ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        for job in _JOB.findall(done.stdout):
            self.replacements["job-…"] = job

    def _replace(self, text: str) -> str:
        for word, replacement in self.replacements.items():
            text = text.replace(word, replacement)
        return text


def install_module(fence: Fence, folder: Path) -> None:
    """Install a block of code with a file's name into a folder on the path; as a plugin, if it declares a contract."""
    (folder / fence.title).write_text(fence.text)
    if "requires_contract" not in fence.text:
        return
    name = fence.title.removesuffix(".py")
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[imagegen.plugins]\n{name} = {name}\n")


def commands(fence: Fence) -> Iterator[str]:
    """Yield the commands of a shell block, without comments."""
    for line in fence.text.replace("\\\n", " ").splitlines():
        code = re.sub(r"(^|\s+)#.*$", "", line)
        yield from (command.strip() for command in code.split(" && ") if command.strip())
