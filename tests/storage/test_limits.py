"""Limits of a store, also when other servers use the same place."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from imagegen_core.errors import StorageError
from imagegen_core.settings import Settings
from imagegen_core.storage.filesystem import FilesystemStore
from tests.storage.conftest import Kind

_MIB = 2**20


def _folder(path: Path, **options: Any) -> FilesystemStore:
    return FilesystemStore(Settings.load(environ={}, storage_provider="filesystem", storage_url=str(path), **options))


def test_the_oldest_pictures_are_removed_beyond_the_byte_limit(kind: Kind) -> None:
    store = kind.open(storage_max_bytes=_MIB)
    keys = [f"{number}.png" for number in range(5)]
    for key in keys:
        store.put(key, bytes(_MIB // 3))
    assert [store.get(key) is not None for key in keys] == [False, False, True, True, True]


def test_a_replaced_picture_counts_once(kind: Kind) -> None:
    store = kind.open(storage_max_bytes=_MIB)
    store.put("old.png", bytes(_MIB // 3))
    for _ in range(10):
        store.put("same.png", bytes(_MIB // 2))
    assert store.get("old.png")
    store.delete("same.png")
    store.put("new.png", bytes(_MIB // 2))
    assert store.get("old.png")


def test_a_picture_larger_than_the_byte_limit_is_refused(kind: Kind) -> None:
    store = kind.open(storage_max_bytes=_MIB)
    store.put("old.png", b"picture")
    with pytest.raises(StorageError, match="larger than all that are kept may be together, 1048576 bytes: raise"):
        store.put("new.png", bytes(_MIB + 1))
    assert store.get("old.png") == b"picture"


def test_a_server_does_not_prune_another_servers_pictures(kind: Kind) -> None:
    if kind.name == "memory":
        return  # these stores share no place
    generous, narrow = kind.open(), kind.open(storage_max_items=1, storage_max_bytes=_MIB)
    for number in range(5):
        generous.put(f"generous-{number}.png", bytes(_MIB // 2))
        narrow.put(f"narrow-{number}.png", bytes(_MIB // 2))
    assert all(generous.get(f"generous-{number}.png") for number in range(5))
    assert [number for number in range(5) if narrow.get(f"narrow-{number}.png")] == [4]


def test_a_server_does_not_prune_a_picture_that_another_server_replaced(tmp_path: Path) -> None:
    store, other = _folder(tmp_path, storage_max_items=1), _folder(tmp_path)
    store.put("same.png", b"one's")
    other.put("same.png", b"other's")
    store.put("next.png", b"one's")
    assert other.get("same.png") == b"other's"


def test_a_server_with_a_shorter_ttl_keeps_another_servers_files(tmp_path: Path) -> None:
    store = _folder(tmp_path, storage_ttl_image=1000)
    store.put("a.png", b"picture")
    file = tmp_path / "a.png.picture"
    os.utime(file, (0, file.stat().st_mtime - 900))
    brief = _folder(tmp_path, storage_ttl_image=10)
    brief.put("b.png", b"picture")
    assert store.get("a.png") == brief.get("a.png") == b"picture"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_only_the_owner_may_read_the_files_and_the_folder(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        store = _folder(tmp_path / "pictures")
        store.put("a.png", b"picture")
    finally:
        os.umask(before)
    assert store.get("a.png") == b"picture"
    assert stat.S_IMODE((tmp_path / "pictures").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "pictures" / "a.png.picture").stat().st_mode) == 0o600


def test_an_existing_folder_keeps_its_permissions(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir(mode=0o755)
    _folder(tmp_path / "shared").put("a.png", b"picture")
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o755
