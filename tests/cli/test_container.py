"""The command line in containers and services: without a home, a terminal, a writable disk or a reader.

Each test runs the console script in a process of its own. The rules of the operating system are the oracle.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from PIL import Image

SCRIPT = str(Path(sysconfig.get_path("scripts"), "imagegen"))
BYTES = os.fsdecode(b"caf\xe9")  # Latin-1, as a shell passes it on
QUICK = {
    "version": ["--version"],
    "help": ["--help"],
    "a command's help": ["generate", "--help"],
    "settings": ["config", "show", "--json"],
    "plugins": ["plugins", "list"],
    "models": ["models", "list"],
    "a model": ["models", "inspect", "demo"],
    "styles": ["styles", "list"],
}
REFUSED = 2
FAILED = 1


def _run(command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command, in which ``imagegen`` is the console script.

    Check that it prints neither a traceback nor Python's message about an ignored exception.
    """
    done = subprocess.run(
        ["bash", "-c", command.replace("imagegen", SCRIPT, 1)],
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=120,
    )
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return done


def _command(words: list[str]) -> str:
    return f"imagegen {' '.join(words)}"


@pytest.fixture
def picture(sdxl_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The command that quickly draws a picture with the tiny checkpoint."""
    monkeypatch.setenv("MODEL", str(sdxl_checkpoint))
    monkeypatch.setenv("CUDA_DEVICE", "cpu")
    return "imagegen generate lake --steps 1 --seed 7"


@pytest.fixture
def enlarged(tmp_path: Path) -> str:
    """The command that writes a picture without a model."""
    Image.effect_noise((256, 256), 99).convert("RGB").save(tmp_path / "noise.png")
    return f"imagegen upscale {tmp_path}/noise.png --upscaler lanczos"


@pytest.mark.parametrize("words", QUICK.values(), ids=QUICK)
def test_quick_commands_need_no_home_and_no_entry_for_the_user(words: list[str]) -> None:
    """As in ``docker run --user 12345``, and with an empty environment."""
    prefix = ["env", "-i", "OMP_NUM_THREADS=1"]
    if os.geteuid() == 0 and shutil.which("setpriv"):
        prefix += ["setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups"]
    done = subprocess.run([*prefix, SCRIPT, *words], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_a_path_below_an_unknown_home_is_refused() -> None:
    done = _run("env -u HOME imagegen generate lake -o '~no-such-user/out.png'")
    assert done.returncode == REFUSED
    assert done.stderr == (
        "Error: No home folder is known for ~no-such-user in ~no-such-user/out.png: set HOME, or write the whole path\n"
    )


@pytest.mark.parametrize("words", QUICK.values(), ids=QUICK)
@pytest.mark.parametrize(
    ("stdout", "cause"), [(">&-", "Bad file descriptor"), ("> /dev/full", "No space left on device")]
)
def test_unwritable_results_are_one_error_sentence(words: list[str], stdout: str, cause: str) -> None:
    done = _run(f"{_command(words)} {stdout}")
    assert done.returncode == FAILED
    assert done.stderr.splitlines()[-1] == f"Error: Cannot write to stdout: {cause}"


@pytest.mark.parametrize("closed", ["2>&-", "2> /dev/full", "<&- 2>&-"])
def test_results_are_written_without_stderr(closed: str) -> None:
    done = _run(f"imagegen models list {closed}")
    assert done.returncode == 0
    assert done.stdout.startswith("demo\t")
    assert _run(f"imagegen models list --nonsense {closed}").returncode == REFUSED


def test_a_picture_is_written_with_every_stream_closed(picture: str) -> None:
    """Libraries would print into the file if it had the descriptor of a closed stream."""
    done = _run(f"{picture} -o out.png <&- >&- 2>&-")
    assert done.returncode == 0
    with Image.open("out.png") as image:
        image.load()


def test_a_picture_without_a_reader_is_an_error(enlarged: str) -> None:
    done = _run(f"set -o pipefail; {enlarged} -o - | true")
    assert (done.returncode, done.stderr) == (FAILED, "Error: Cannot write to stdout: Broken pipe\n")
    done = _run(f"{enlarged} -o - > /dev/full")
    assert done.returncode == FAILED
    assert done.stderr == "Error: Cannot write to stdout: No space left on device\n"


def test_a_list_ends_quietly_after_its_reader() -> None:
    done = _run("{ sleep 1; imagegen config show --json; } | true; exit ${PIPESTATUS[0]}")
    assert (done.returncode, done.stderr) == (FAILED, "")


def test_a_read_only_system_needs_one_writable_volume(picture: str, tmp_path: Path) -> None:
    """Every folder of the system is read-only, even /tmp; only the volume is writable."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("mounting needs root and unshare")
    volume, script = tmp_path / "volume", tmp_path / "inside.sh"
    volume.mkdir()
    readonly = (
        "for place in /tmp /var/tmp /dev/shm /; do mount --bind $place $place && mount -o remount,bind,ro $place; done"
    )
    script.write_text(
        f"mount --make-rprivate / && {readonly} && mount -t tmpfs volume {volume}\n"
        f"touch /tmp/file 2> /dev/null && exit 99\n"
        f"cd / && {picture} -o {volume}/out.png && cat {volume}/out.png || exit $?\n"
        f"{picture} -o /out.png\n"
    )
    script.write_text(script.read_text().replace("imagegen", SCRIPT))
    done = subprocess.run(["unshare", "--mount", "bash", script], capture_output=True, check=False, timeout=120)
    assert done.returncode == REFUSED, done.stderr
    assert Image.open(io.BytesIO(done.stdout)).size == (64, 64)
    assert done.stderr.decode().splitlines()[-1] == "Error: Cannot write /out.png: the folder / is not writable"


WRONG_BYTES = {
    "prompt": ["generate", BYTES],
    "size": ["generate", "a", "--size", BYTES],
    "steps": ["generate", "a", "--steps", BYTES],
    "model": ["generate", "a", "--model", BYTES],
    "prediction": ["generate", "a", "--prediction", BYTES],
    "option": ["generate", "a", f"--{BYTES}", "b"],
    "command": [BYTES],
    "file": ["upscale", f"{BYTES}.png"],
    "name": ["plugins", "new", BYTES, "--kind", "style"],
    "engine": ["serve", "--engine", BYTES],
}


@pytest.mark.parametrize("words", WRONG_BYTES.values(), ids=WRONG_BYTES)
def test_undecodable_arguments_are_wrong_input(words: list[str]) -> None:
    done = subprocess.run([SCRIPT, *words], capture_output=True, text=True, check=False)
    assert done.returncode == REFUSED
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("variable", ["MODEL", "LORA_ROOT", "CUDA_DTYPE", "IMAGEGEN_CONFIG"])
def test_undecodable_variables_are_wrong_input(variable: str) -> None:
    done = _run("imagegen styles list", **{variable: BYTES})
    assert done.returncode == REFUSED
    assert done.stderr.splitlines()[-1].startswith("Error: ")


def test_an_undecodable_file_name_is_written(enlarged: str) -> None:
    done = _run(f"{enlarged} -o '{BYTES}.png'")
    assert done.returncode == 0
    assert f"{BYTES}.png" in os.listdir()


@pytest.mark.parametrize(
    "environ",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"COLUMNS": "0", "TERM": "nonsense"},
        {"COLUMNS": "garbage", "LINES": "-1", "NO_COLOR": "1"},
    ],
    ids=["ascii", "no width", "garbage"],
)
def test_output_is_the_same_in_any_terminal_and_language(environ: dict[str, str]) -> None:
    plain = _run("imagegen models list --json").stdout
    assert _run("imagegen models list --json", **environ).stdout == plain
    assert _run("imagegen generate --help", **environ).returncode == 0


def test_commands_work_in_a_deleted_folder() -> None:
    assert _run("mkdir gone && cd gone && rmdir ../gone && imagegen models list").returncode == 0


def test_a_full_disk_leaves_no_partial_picture(enlarged: str, tmp_path: Path) -> None:
    """On a real file system of 8 kB."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("mounting needs root and unshare")
    disk = tmp_path / "disk"
    disk.mkdir()
    inside = f"mount -t tmpfs -o size=8k full {disk}; {enlarged} -o {disk}/out.png; code=$?; ls -A {disk}; exit $code"
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", inside.replace("imagegen", SCRIPT)],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert (done.returncode, done.stdout) == (FAILED, "")
    assert done.stderr == f"Error: Cannot write {disk}/out.png: No space left on device\n"


def test_sigterm_ends_a_starting_server_that_is_process_1() -> None:
    """The kernel drops signals without a handler in the first process of a namespace: pid_namespaces(7)."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("a namespace needs root and unshare")
    code = (
        "import os, signal\n"
        "from imagegen_core import importing\n"
        "assert os.getpid() == 1\n"
        "from imagegen_core.cli import main, serve\n"
        "serve.load_named = lambda *names: os.kill(1, signal.SIGTERM) or signal.pause()\n"
        "main(['serve', '--port', '0'])\n"
    )
    command = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c", code]
    assert subprocess.run(command, check=False, timeout=30).returncode == 0
