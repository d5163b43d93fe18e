"""Stores whose process is killed, whose disk is full, or whose server or folder is missing."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from imagegen_core.errors import StorageError
from imagegen_core.settings import Settings
from imagegen_core.storage.filesystem import FilesystemStore
from imagegen_core.storage.redis import RedisStore
from tests.repetitions import FACTOR
from tests.storage.conftest import RedisServer
from tests.storage.pictures import is_whole, picture

_KILLS = 100 * FACTOR


def _folder(path: Path, **options: int) -> FilesystemStore:
    return FilesystemStore(Settings.load(environ={}, storage_provider="filesystem", storage_url=str(path), **options))


def _redis(url: str) -> RedisStore:
    return RedisStore(Settings.load(environ={}, storage_provider="redis", storage_url=url))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_pictures_stay_whole_when_the_writing_process_is_killed(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    moments = random.Random(20240229)
    folder = tmp_path / "pictures"
    unfinished: set[Path] = set()
    with subprocess.Popen(
        [sys.executable, "-m", "tests.storage.writer", str(folder)],
        cwd=pytestconfig.rootpath,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as writer:
        assert writer.stdin
        assert writer.stdout
        for _ in range(_KILLS):
            writer.stdin.write("go\n")
            writer.stdin.flush()
            word, process = writer.stdout.readline().split()
            assert word == "writing"
            time.sleep(moments.uniform(0, 0.03))
            os.kill(int(process), signal.SIGKILL)
            assert writer.stdout.readline() == "dead\n"
            files = list(folder.iterdir())
            unfinished |= {file for file in files if file.name.startswith(".part-")}
            torn = [file.name for file in files if file not in unfinished and not is_whole(file.read_bytes())]
            assert not torn
        writer.stdin.close()
        assert writer.wait(timeout=30) == 0
    assert any(not is_whole(file.read_bytes()) for file in unfinished), (
        "no kill interrupted a write, so nothing was tested"
    )

    store = _folder(folder)
    for file in unfinished:
        os.utime(file, (time.time() - 3600,) * 2)
    store.put("new.png", picture())
    assert not any(file.name.startswith(".part-") for file in folder.iterdir())


def test_a_stopped_redis_is_a_storage_error_until_it_starts_again(redis_with_password: RedisServer) -> None:
    store = _redis(redis_with_password.url)
    store.put("a.png", b"picture")
    redis_with_password.stop()
    for use in (
        lambda: store.put("a.png", b"again"),
        lambda: store.get("a.png"),
        lambda: store.delete("a.png"),
        store.check,
    ):
        with pytest.raises(StorageError) as caught:
            use()
        assert f"127.0.0.1:{redis_with_password.port}" in str(caught.value)
        assert "see whether it runs" in str(caught.value)
        assert "sesame" not in str(caught.value)
    redis_with_password.start()
    store.check()
    assert store.get("a.png") is None
    store.put("a.png", b"again")
    assert store.get("a.png") == b"again"


def test_redis_may_start_after_the_store(redis_with_password: RedisServer) -> None:
    redis_with_password.stop()
    store = _redis(redis_with_password.url)
    with pytest.raises(StorageError):
        store.check()
    redis_with_password.start()
    store.check()


@pytest.mark.parametrize(
    "url", ["redis://:{}@127.0.0.1:{}/0", "redis://me:{}@127.0.0.1:{}/0", "redis://127.0.0.1:{1}/0?password={0}"]
)
def test_a_wrong_password_is_a_storage_error_without_the_password(redis_with_password: RedisServer, url: str) -> None:
    store = _redis(url.format("hushhush", redis_with_password.port))
    with pytest.raises(StorageError, match=f"Redis at 127.0.0.1:{redis_with_password.port}") as caught:
        store.check()
    assert "refuses the login" in str(caught.value)
    assert "correct STORAGE_URL's password" in str(caught.value)
    assert "hushhush" not in str(caught.value)


def test_a_full_redis_is_a_storage_error_and_keeps_its_pictures(redis_with_password: RedisServer) -> None:
    store = _redis(redis_with_password.url)
    store.put("a.png", b"picture")
    with redis_with_password.client() as client:
        client.config_set("maxmemory", "1")
        with pytest.raises(StorageError, match="refuses a command .*maxmemory.*: correct its configuration"):
            store.put("b.png", picture())
        assert store.get("a.png") == b"picture"
        client.config_set("maxmemory", "0")
    store.put("b.png", b"picture")
    assert store.get("b.png") == b"picture"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a separate disk of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if (
        not mount
        or subprocess.run(
            [mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=False, capture_output=True
        ).returncode
    ):
        pytest.skip("needs permission to mount a tmpfs")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def _fill(store: FilesystemStore) -> dict[str, bytes]:
    """Store pictures until the disk is full, and return the stored ones by key."""
    kept: dict[str, bytes] = {}
    for number in range(20):
        data = picture()
        try:
            store.put(f"{number}.png", data)
        except StorageError as error:
            assert "No space left on device" in str(error)
            assert "make room" in str(error)
            return kept
        kept[f"{number}.png"] = data
    pytest.fail("the disk is larger than it should be")


def test_a_full_disk_is_a_storage_error_and_stored_pictures_stay_whole(small_disk: Path) -> None:
    store = _folder(small_disk)
    kept = _fill(store)
    assert kept
    assert sorted(file.name for file in small_disk.iterdir()) == sorted(f"{key}.picture" for key in kept)
    assert {key: store.get(key) for key in kept} == kept
    with pytest.raises(StorageError):
        store.put("0.png", picture(400_000))
    assert store.get("0.png") == kept["0.png"]

    assert store.delete("0.png")
    data = picture()
    store.put("new.png", data)
    assert store.get("new.png") == data


def test_expired_pictures_are_removed_from_a_full_disk(small_disk: Path) -> None:
    for key in _fill(_folder(small_disk)):
        os.utime(small_disk / f"{key}.picture", (time.time() - 7200,) * 2)
    store = _folder(small_disk)
    with pytest.raises(StorageError):
        store.put("new.png", picture())
    store.put("new.png", picture())
    assert [file.name for file in small_disk.iterdir()] == ["new.png.picture"]


def test_a_completely_full_disk_fails_the_check(small_disk: Path) -> None:
    store = _folder(small_disk)
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "rest").write_bytes(bytes(2**21))
    with pytest.raises(StorageError, match="make room"):
        store.check()
    assert [file.name for file in small_disk.iterdir()] == ["rest"]


def test_a_file_in_place_of_the_folder_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "pictures").write_bytes(b"")
    with pytest.raises(StorageError, match="pictures does not work .*: name a folder, where a file is now"):
        _folder(tmp_path / "pictures")


def test_a_removed_folder_is_a_storage_error(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    store = _folder(folder)
    store.put("a.png", b"picture")
    shutil.rmtree(folder)
    for use in (partial(store.put, "b.png", b"picture"), store.check):
        with pytest.raises(StorageError, match=r"pictures is gone: make it again"):
            use()
    assert store.get("a.png") is None
    assert store.delete("a.png") is False
    folder.mkdir()
    store.check()
    store.put("b.png", b"picture")
    assert store.get("b.png") == b"picture"
