"""Wrong edits of the modes file."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from imagegen_core import Settings, SettingsError
from imagegen_core.modes import load_modes
from imagegen_core.server.config_watcher import watching
from tests.server.conftest import LIMIT
from tests.server.hostile.conftest import PROMPTLY, Attacked, StartAttacked
from tests.waiting import until

Edit = Callable[[Path], object]


def _bomb(entry: str) -> str:
    """Return YAML with a billion entries: nine levels of ten aliases each."""
    levels = [f"a0: &a0 {entry}", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10))]
    return "\n".join(levels)


def _text(text: str | bytes) -> Edit:
    return lambda path: path.write_bytes(text.encode() if isinstance(text, str) else text)


def _replace(make: Callable[[Path], object]) -> Edit:
    def edit(path: Path) -> None:
        path.unlink()
        make(path)

    return edit


MERGES = "\n".join(
    ["m0: &m0 {a: 1}", *(f"m{n}: &m{n}\n  <<: [{', '.join([f'*m{n - 1}'] * 10)}]" for n in range(1, 10))]
)
EDITS: dict[str, tuple[Edit, str]] = {
    "an alias of itself": (_text("modes: &a [*a]"), "contains itself"),
    "a mapping inside itself": (_text("modes: &a {b: *a}"), "contains itself"),
    "a key inside itself": (_text("? &a [*a]\n: 1"), "a key must be text"),
    "a billion laughs": (_text(_bomb("x")), "over 10000 entries"),
    "a billion merges": (_text(MERGES), "over 10000 entries"),
    "nested lists": (_text("modes: " + "[" * 100_000), "nested over 32 levels deep"),
    "nested mappings": (_text("modes: " + "{a: " * 20_000), "nested over 32 levels deep"),
    "a large file": (lambda path: os.truncate(path, 100_000_000), "larger than 262144 bytes"),
    "a pipe": (_replace(os.mkfifo), "it is a pipe or device"),
    "a folder": (_replace(Path.mkdir), "There is no file of modes"),
    "a device": (_replace(lambda path: path.symlink_to("/dev/zero")), "it is a pipe or device"),
    "a missing file": (Path.unlink, "There is no file of modes"),
    "invalid UTF-8": (_text(b"modes: \xff"), "save it as UTF-8"),
    "a null byte": (_text(b"modes: \0"), "special characters are not allowed"),
    "half a surrogate pair": (_text('model_root: "\\ud83d"'), "half a character"),
    "an impossible date": (_text("modes: 2001-99-99"), "month must be in 1..12"),
    "a wrong tag": (_text("modes: !!timestamp x"), "correct its YAML"),
    "a Python object": (_text("modes: !!python/object/apply:os.system [id]"), "could not determine a constructor"),
    "a long number": (_text("modes: " + "1" * 5000), "correct its YAML"),
    "an empty file": (_text(""), "expected the keys model_root"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_invalid_modes_file_is_refused_with_a_short_reason(tmp_path: Path, edit: str) -> None:
    path = tmp_path / "modes.yaml"
    path.touch()
    change, reason = EDITS[edit]
    change(path)
    settings = Settings.load(environ={}, modes_file=path)
    began = time.monotonic()
    with pytest.raises(SettingsError) as refusal:
        load_modes(settings)
    assert reason in str(refusal.value)
    assert len(str(refusal.value)) < 1000
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"a = " + b"[" * 100_000, "nested too deep"),
        (b"a = " + b"{a=" * 50_000, "nested too deep"),
        (b"port = " + b"1" * 5000, "correct its TOML"),
        (b"\xff", "save it as UTF-8"),
        (b"a\0", "correct its TOML"),
        (b" " * 300_000, "larger than 262144 bytes"),
        (b"".join(b"a%d=1\n" % number for number in range(20_000)), "it has 20000 keys"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_an_invalid_toml_file_is_refused_with_a_reason(tmp_path: Path, text: bytes, reason: str) -> None:
    path = tmp_path / "imagegen.toml"
    path.write_bytes(text)
    with pytest.raises(SettingsError, match=reason):
        Settings.load(environ={"IMAGEGEN_CONFIG": str(path)})


@pytest.fixture
def watched(attack: StartAttacked, tmp_path: Path, sdxl_checkpoint: Path) -> tuple[Attacked, Path, str]:
    folder = tmp_path / "configuration"
    folder.mkdir()
    modes = (
        f"model_root: {sdxl_checkpoint.parent}\ndefault_mode: one\nmodes:\n  one: {{model: {sdxl_checkpoint.name}}}\n"
    )
    (folder / "modes.yaml").write_text(modes)
    return attack(IMAGEGEN_MODES_FILE=str(folder / "modes.yaml")), folder / "modes.yaml", modes


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _until_error(server: Attacked, matches: Callable[[str], bool]) -> None:
    def error() -> str:
        return server.http.get("/api/modes").json()["error"] or ""

    until(lambda: matches(error()), message=error)


def test_the_last_good_modes_stay_until_the_next_good_edit(watched: tuple[Attacked, Path, str]) -> None:
    server, path, modes = watched
    with server.watch() as watch:
        for edit in ("an alias of itself", "a billion laughs", "a large file", "a pipe", "a folder", "invalid UTF-8"):
            change, reason = EDITS[edit]
            change(path)
            _until_error(server, lambda error, reason=reason: reason in error)
            assert server.draw(mode="one").status_code == 200
            _remove(path)
            path.write_text(modes)
            _until_error(server, lambda error: error == "")
        _remove(path.parent)  # the whole folder, as with a mount that disappears and returns
        _until_error(server, lambda error: error != "")
        path.parent.mkdir()
        path.write_text(modes + modes.splitlines()[-1].replace("one", "two") + "\n")
        _until_error(server, lambda error: error == "")
    assert "two" in server.http.get("/api/modes").json()["modes"]
    assert watch.worst < PROMPTLY
    server.process.process.send_signal(signal.SIGTERM)
    assert server.process.process.wait(LIMIT) == 0


class Faulty:
    """A mode manager with an unexpected error in `reload`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.edits = 0
        self.ended = asyncio.Event()

    def files(self) -> list[Path]:
        return [self.path]

    def reload(self) -> None:
        self.edits += 1
        if self.edits < 3:
            self.path.write_text("#" * self.edits)
        else:
            self.loop.call_soon_threadsafe(self.ended.set)
        raise RuntimeError("nobody foresaw this")

    async def watch(self) -> None:
        self.loop = asyncio.get_running_loop()
        async with watching(self):  # type: ignore[arg-type]
            self.path.touch()
            await asyncio.wait_for(self.ended.wait(), LIMIT)


def test_an_unexpected_error_is_logged_and_the_watcher_continues(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asyncio.run(Faulty(tmp_path / "modes.yaml").watch())
    assert caplog.text.count("The modes stay as they were: reading them again failed") == 3
