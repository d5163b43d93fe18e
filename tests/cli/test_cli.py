"""The command line: its pictures, output and errors, in separate processes if this matters."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from imagegen_core.cli import main, plugins

PNG = b"\x89PNG\r\n\x1a\n"


def _run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    return int(exit_info.value.code or 0), *capfd.readouterr()


def _imagegen(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "from imagegen_core.cli import main; main()", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


@pytest.fixture
def _tiny(sdxl_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL", str(sdxl_checkpoint))
    monkeypatch.setenv("CUDA_DEVICE", "cpu")
    monkeypatch.setenv("IMAGEGEN_RECIPE", "0")  # so that equal pictures are equal files


@pytest.mark.usefixtures("_tiny")
def test_generate_writes_a_file(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = _run(capfd, "generate", "a lake", "-o", "lake.png", "--seed", "7", "--size", "64x40")
    assert (code, out) == (0, "")
    assert "lake.png  64x40, seed 7" in err
    with Image.open("lake.png") as picture:
        assert picture.size == (64, 40)
    assert os.listdir() == ["lake.png"]


@pytest.mark.usefixtures("_tiny")
def test_generate_silently_uses_the_first_of_several_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_DEVICE", "cpu,cuda:9")
    for options in ([], ["--count", "2"]):
        process = _imagegen("generate", "a lake", "--seed", "7", *options)
        _, err = process.communicate()
        assert process.returncode == 0
        assert all(line.startswith(b"out") for line in err.splitlines())


@pytest.mark.usefixtures("_tiny")
def test_each_option_changes_the_picture(capfd: pytest.CaptureFixture[str]) -> None:
    pictures = {}
    for name, options in {
        "plain": [],
        "steps": ["--steps", "2"],
        "guidance": ["--guidance", "5"],
        "negative": ["--guidance", "5", "--negative", "dark"],
    }.items():
        assert _run(capfd, "generate", "a lake", "-o", f"{name}.png", "--seed", "7", *options)[0] == 0
        pictures[name] = Path(f"{name}.png").read_bytes()
    assert len(set(pictures.values())) == len(pictures)


@pytest.mark.usefixtures("_tiny")
def test_several_pictures_have_numbers_and_consecutive_seeds(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _run(capfd, "generate", "a lake", "-o", "l.png", "--seed", "7", "--count", "3", "--json")
    assert code == 0
    pictures = json.loads(out)
    assert [(picture["path"], picture["seed"], picture["size"]) for picture in pictures] == [
        ("l-1.png", 7, "64x64"),
        ("l-2.png", 8, "64x64"),
        ("l-3.png", 9, "64x64"),
    ]
    assert _run(capfd, "generate", "a lake", "-o", "one.png", "--seed", "8")[0] == 0
    assert Path("one.png").read_bytes() == Path("l-2.png").read_bytes()


@pytest.mark.usefixtures("_tiny")
def test_a_pipe_gets_the_picture_and_nothing_else() -> None:
    process = _imagegen("generate", "a lake", "-o", "-", "--seed", "7")
    out, err = process.communicate()
    assert process.returncode == 0
    assert Image.open(io.BytesIO(out)).size == (64, 64)
    assert out.startswith(PNG)
    assert out.endswith(b"IEND\xaeB`\x82")
    assert err == b""


def test_without_a_checkpoint_the_demo_draws_and_a_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_DEVICE", "cpu")
    process = _imagegen("generate", "a majestic mountain landscape at sunset", "-o", "out.png", "--seed", "1")
    out, err = process.communicate()
    assert (process.returncode, out) == (0, b"")
    lines = err.decode().splitlines()
    assert lines[0] == "No checkpoint configured: the demo model draws (set SDXL_MODEL or --model for your own)"
    assert lines[1].startswith("out.png  256x256, seed 1")
    assert len(lines) == 2


WRONG = {
    "size": (["generate", "a", "--size", "12by7"], "Invalid size '12by7': expected WIDTHxHEIGHT"),
    "steps": (["generate", "a", "--steps", "0"], "Invalid num_inference_steps 0"),
    "too many steps": (["generate", "a", "--steps", "51"], "the LCM scheduler takes 1 to 50"),
    "no number": (["generate", "a", "--steps", "many"], "Invalid value for '--steps'"),
    "guidance": (["generate", "a", "--guidance", "-1"], "Invalid guidance_scale -1.0"),
    "seed": (["generate", "a", "--seed", "-1"], "Invalid seed -1"),
    "count": (["generate", "a", "--count", "0"], "Invalid value for '--count'"),
    "model": (["generate", "a", "--model", "gone"], "No checkpoint 'gone'"),
    "backend": (["generate", "a", "--backend", "gone"], "No backend 'gone' is installed"),
    "option": (["generate", "a", "--sise", "8x8"], "No such option: --sise"),
    "no prompt": (["generate"], "Missing argument 'prompt'"),
    "command": (["draw", "a"], "No such command 'draw'"),
    "no picture format": (["generate", "a", "-o", "out.jpg"], "pictures are PNG files, so name it out.png"),
    "no folder": (["generate", "a", "-o", "gone/out.png"], "the folder gone does not exist"),
    "many to stdout": (
        ["generate", "a", "-o", "-", "--count", "2"],
        "takes one picture, and --count asks for 2",
    ),
    "both to stdout": (["generate", "a", "-o", "-", "--json"], "both write to stdout"),
}


@pytest.mark.usefixtures("_tiny")
@pytest.mark.parametrize(("arguments", "words"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_one_sentence_and_exit_code_2(
    capfd: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    code, out, err = _run(capfd, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(("variable", "value"), [("CUDA_DTYPE", "fp8"), ("CUDA_DEVICE", "cuda:9"), ("BACKEND", "gone")])
def test_a_wrong_variable_is_named(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    code, _, err = _run(capfd, "generate", "a")
    assert code == 2
    assert value in err
    assert "Traceback" not in err


@pytest.mark.usefixtures("_tiny")
def test_ctrl_c_leaves_no_file_and_no_traceback(tmp_path: Path) -> None:
    code = (
        "import os, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # background jobs of a shell ignore SIGINT
        "from imagegen_core.diffusion.denoising import Denoising\n"
        "advance = Denoising.advance\n"
        "def interrupted(state, prediction):\n"
        "    advance(state, prediction)\n"
        "    if state.index == 2: os.kill(os.getpid(), signal.SIGINT)\n"
        "Denoising.advance = interrupted\n"
        "from imagegen_core.cli import main\n"
        "main(['generate', 'a lake', '-o', 'out.png'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 128 + signal.SIGINT
    assert done.stderr == "Error: Interrupted\n"
    assert os.listdir() == []


@pytest.mark.usefixtures("_tiny")
def test_a_full_disk_leaves_the_existing_file(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("out.png").write_bytes(b"before")

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    code, _, err = _run(capfd, "generate", "a", "-o", "out.png")
    assert (code, err) == (1, "Error: Cannot write out.png: No space left on device\n")
    assert Path("out.png").read_bytes() == b"before"
    assert os.listdir() == ["out.png"]


def test_plugins_list_names_the_installed_plugins(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = _run(capfd, "plugins", "list")
    assert (code, err) == (0, "")
    rows = [line.split("\t") for line in out.splitlines()]
    offered = "backend sdxl, backend sdxl-refiner, family sdxl, family sdxl-refiner"
    assert ["sdxl", "imagegen-sdxl 0.1.0", "ok", offered] in rows
    assert ["demo", "imagegen-demo 0.1.0", "ok", "model demo, style storybook, upscaler demo"] in rows
    code, out, _ = _run(capfd, "plugins", "list", "--json")
    assert {plugin["name"] for plugin in json.loads(out)} >= {"sdxl", "sd15", "demo"}


def test_the_doctor_finds_nothing_wrong(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _run(capfd, "plugins", "doctor")
    assert code == 0
    assert "sdxl (imagegen-sdxl 0.1.0): ok" in out


@pytest.mark.parametrize(
    ("gpu", "installed", "is_advised"), [(False, (), True), (True, (), False), (False, ("imagegen-openvino",), False)]
)
def test_the_doctor_recommends_openvino_for_a_cpu(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, installed: tuple[str, ...], is_advised: bool
) -> None:
    monkeypatch.setattr("imagegen_core.resources.gpus.may_have_gpu", lambda: gpu)
    advice = plugins._advice_for_cpu(installed)
    assert bool(advice) == is_advised
    assert advice is None or "pip install imagegen-openvino, set BACKEND=openvino, and compare" in advice


def test_the_doctor_names_a_disabled_plugin(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEGEN_PLUGINS_DISABLED", "sd15")
    code, out, _ = _run(capfd, "plugins", "doctor")
    assert code == 0
    assert (
        "sd15 (imagegen-sd15 0.1.0): disabled\n  cause: IMAGEGEN_PLUGINS_DISABLED names it\n  mend: take it out" in out
    )


def test_models_list_shows_named_models_and_models_below_the_root(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, sdxl_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/model_index.json").write_text("{}")
    (tmp_path / "tiny").symlink_to(sdxl_checkpoint)
    monkeypatch.setenv("MODEL_ROOT", str(tmp_path))
    code, out, _ = _run(capfd, "models", "list", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0
    assert (rows["demo"]["family"], rows["demo"]["size"]) == ("sdxl", "256x256")
    assert (rows["tiny"]["family"], rows["tiny"]["size"]) == ("sdxl", "64x64")
    assert rows["broken"]["family"] == "unusable"
    assert "model_index.json names no pipeline" in rows["broken"]["note"]


def test_help_version_and_completion(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in (["--help"], [], ["generate", "--help"]):
        code, out, _ = _run(capfd, *arguments)
        assert code == 0
        assert "Usage" in out
    assert _run(capfd, "--version")[1] == "imagegen 0.1.0\n"
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    code, out, _ = _run(capfd, "--show-completion", "bash")
    assert code == 0
    assert "complete" in out
