"""Every command and snippet of the documents works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import diffusers
import pytest
from PIL import ImageShow

from tests.docs.doc_runner import EXEMPT, PageRunner, commands
from tests.docs.fences import PAGES, ROOT, Fence, fences
from tests.loras import as_kohya, random_lora, save
from tests.waiting import free_port, until_answered

LOCALLY = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
MODES = "".join(f'[modes.{name}]\nmodel = "demo"\n' for name in ("fast", "portrait"))  # named in docs/server.md
PROGRAMS = Path(sys.executable).parent


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, sdxl_checkpoint: Path, sd15_checkpoint: Path) -> Path:
    """Tiny models, with the names and in the folders that the pages use.

    `my-sdxl.safetensors` is a folder, because a file would need a tokenizer and configs from elsewhere.
    """
    folder = tmp_path_factory.mktemp("world")
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(sdxl_checkpoint, local_files_only=True)
    shutil.copytree(sdxl_checkpoint, folder / "models/my-sdxl.safetensors")
    shutil.copytree(sd15_checkpoint, folder / "models/my-sd15")
    lora = as_kohya(random_lora(pipe))
    for name in ("loras", "sdxl-loras"):
        save(lora, folder / "models" / name / "papercut.safetensors")
    (folder / ".config/imagegen").mkdir(parents=True)
    (folder / ".config/imagegen/imagegen.toml").write_text(MODES)
    return folder


@pytest.fixture(scope="module")
def environ(world: Path) -> dict[str, str]:
    """The environment of the pages' commands."""
    return {
        "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
        "HOME": str(world),
        "HF_HOME": os.environ["HF_HOME"],
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", ""),
        "OMP_WAIT_POLICY": "PASSIVE",
    }


@pytest.fixture(scope="module")
def port(world: Path, environ: dict[str, str]) -> Iterator[int]:
    """The port of the server that all pages use."""
    port = free_port()
    variables = environ | {"MODEL": "demo", "PORT": str(port)}
    with (world / "log").open("w") as log:
        process = subprocess.Popen([PROGRAMS / "imagegen", "serve"], env=variables, stderr=log, cwd=world)
    try:
        until_answered(process, world / "log", f"http://127.0.0.1:{port}/ready")
        yield port
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def runner(
    tmp_path: Path, world: Path, environ: dict[str, str], port: int, monkeypatch: pytest.MonkeyPatch
) -> PageRunner:
    """A runner in a folder with the repository's examples and programs, with replacements for a page's assumptions."""
    monkeypatch.setattr(ImageShow, "_viewers", [])  # so that `show` opens no window
    monkeypatch.setenv("MODEL", "demo")
    for name in ("examples", "docs_build"):
        (tmp_path / name).symlink_to(ROOT / name)
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    return PageRunner(
        tmp_path,
        environ | {"PYTHONPATH": str(site)},
        {
            "/models": str(world / "models"),
            "localhost:4200": f"127.0.0.1:{port}",
            "127.0.0.1:4200": f"127.0.0.1:{port}",
            "curl -s": "curl --fail-with-body -s",  # an error response fails the command
            ".venv/bin/": "",
            "pip install -e ./": "pip install ./",  # an editable install would not go into `site`
            "pip install ./": f"pip install {' '.join(LOCALLY)} --target {site} ./",
            "--size 1024x1024": "--size 128x128",
            " FILE": " my-sdxl.safetensors",
            " my-sdxl.safetensors": f" {world}/models/my-sdxl.safetensors",
        },
    )


@pytest.mark.parametrize("page", [page for page in PAGES if any(fences(page))])
def test_the_code_blocks_of_a_page_run(page: str, runner: PageRunner) -> None:
    for fence in fences(page):
        runner.run(fence)


def _all_commands() -> list[str]:
    return [
        command for page in PAGES for fence in fences(page) if fence.language == "sh" for command in commands(fence)
    ]


def test_every_exempt_command_is_on_a_page() -> None:
    assert EXEMPT.keys() - _all_commands() == set()


def _fence(language: str, text: str) -> Fence:
    return Fence("a page", 1, language, text, "", None)


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("sh", "imagegen generate 'a lake' --size 12by7"),
        ("sh", "false | cat"),
        ("sh", "curl -s localhost:4200/nowhere"),
        ("python", "raise AssertionError"),
        ("toml", "mdoel = 'demo'"),
        ("json", "{"),
        ("", "anything"),
    ],
)
def test_a_broken_snippet_fails(language: str, text: str, runner: PageRunner) -> None:
    with pytest.raises((AssertionError, ValueError, RuntimeError)):
        runner.run(_fence(language, text))


def test_a_command_sees_the_variables_of_earlier_commands(runner: PageRunner) -> None:
    runner.run(_fence("sh", "export MODEL=demo LEFT='a b'"))
    runner.run(_fence("sh", '[ "$LEFT" = "a b" ]'))
    runner.run(_fence("python", "number = 7"))
    runner.run(_fence("python", "assert number == 7"))
