"""Behaviour of every kind of store, and behaviour of single kinds."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from imagegen_core.errors import InvalidRequestError, PluginError, SettingsError, StorageError
from imagegen_core.plugins.registry import Registry
from imagegen_core.settings import Settings
from imagegen_core.storage import ImageStore, StoreDef, check_key, new_key
from imagegen_core.storage.filesystem import FilesystemStore
from imagegen_core.testing import StoreConformance
from tests.repetitions import FACTOR
from tests.storage.conftest import Kind, RedisServer
from tests.storage.pictures import picture

_KEYS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}(\.[A-Za-z0-9]{1,8})?", fullmatch=True)


def _folder(path: Path, **options: Any) -> FilesystemStore:
    return FilesystemStore(Settings.load(environ={}, storage_provider="filesystem", storage_url=str(path), **options))


def _files(path: Path) -> list[str]:
    return sorted(file.name.removesuffix(".picture") for file in path.iterdir())


def _make_older(file: Path, seconds: float) -> None:
    os.utime(file, (time.time() - seconds,) * 2)


# Every kind


class TestMemory(StoreConformance):
    store = "memory"


class TestFilesystem(StoreConformance):
    store = "filesystem"


class TestObjectStore(StoreConformance):
    """A store that uses fsspec, as buckets do."""

    store = "filesystem"

    @pytest.fixture
    def place(self) -> Iterator[str]:
        root = f"/{uuid.uuid4()}"
        yield f"memory:/{root}"
        fsspec.filesystem("memory").rm(root, recursive=True)


class TestRedis(StoreConformance):
    store = "redis"

    @pytest.fixture
    def place(self, redis_server: RedisServer) -> str:
        with redis_server.client() as client:
            client.flushall()
        return redis_server.url


def test_a_picture_is_kept_until_its_ttl_ends(kind: Kind) -> None:
    store = kind.open(storage_ttl_image=100)
    store.put("a.png", b"picture")
    kind.age("a.png", 80)
    assert store.get("a.png") == b"picture"
    kind.age("a.png", 40)
    assert store.get("a.png") is None
    assert store.delete("a.png") is False


def test_replacing_a_picture_restarts_its_ttl(kind: Kind) -> None:
    store = kind.open(storage_ttl_image=100)
    store.put("a.png", b"picture")
    kind.age("a.png", 80)
    store.put("a.png", b"again")
    kind.age("a.png", 80)
    assert store.get("a.png") == b"again"


def test_the_oldest_pictures_are_removed_beyond_the_item_limit(kind: Kind) -> None:
    store = kind.open(storage_max_items=3, storage_ttl_image=100_000)
    keys = [f"{number}.png" for number in (5, 2, 9, 1, 7, 3, 8)]
    for key in keys:
        store.put(key, key.encode())
    assert [key for key in keys if store.get(key) == key.encode()] == keys[-3:]
    assert [key for key in keys if store.get(key) is None] == keys[:-3]


# Redis


def test_redis_itself_expires_a_picture(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.flushall()
        store = Kind("redis", redis_server.url, lambda key, seconds: None).open(storage_ttl_image=77)
        store.put("a.png", b"picture")
        assert 70 <= cast("int", client.ttl("imagegen:image:a.png")) <= 77


def test_redis_frees_the_memory_of_pictures_beyond_the_limit(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.flushall()
        store = Kind("redis", redis_server.url, lambda key, seconds: None).open(storage_max_items=5)
        for number in range(20):
            store.put(f"{number}.png", b"picture")
        assert len(cast("list[bytes]", client.keys("imagegen:image:*"))) == 5


@pytest.mark.parametrize("url", ["http://x", "x", "redis://host:port/0", "htp://:sesame@host/0"])
def test_an_invalid_redis_url_is_a_settings_error(url: str) -> None:
    with pytest.raises(SettingsError, match=r"storage_url.* expected a URL such as redis://") as caught:
        Kind("redis", url, lambda key, seconds: None).open()
    assert "sesame" not in str(caught.value)


# Files


def test_files_are_only_in_the_folder_and_no_partial_files_remain(tmp_path: Path) -> None:
    store = _folder(tmp_path / "deep" / "pictures")
    keys = [f"{new_key()}.png" for _ in range(5)]
    for key in keys:
        store.put(key, picture())
        store.put(key, picture())
    store.check()
    assert _files(tmp_path) == ["deep"]
    assert _files(tmp_path / "deep") == ["pictures"]
    assert _files(tmp_path / "deep" / "pictures") == sorted(keys)


@settings(
    max_examples=100 * FACTOR, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much]
)
@given(key=st.text(max_size=12) | st.text(alphabet="./\\aB1-_~", min_size=1, max_size=8) | _KEYS)
def test_accepted_keys_never_leave_the_folder(tmp_path: Path, key: str) -> None:
    try:
        check_key(key)
    except InvalidRequestError:
        assume(False)
    store = _folder(tmp_path / "pictures")
    store.put(key, b"picture")
    assert _files(tmp_path) == ["pictures"]
    assert _files(tmp_path / "pictures") == [key]
    assert (tmp_path / "pictures" / f"{key}.picture").resolve().parent == (tmp_path / "pictures").resolve()
    assert store.delete(key)


def test_expired_files_are_removed_from_the_folder(tmp_path: Path) -> None:
    before = _folder(tmp_path, storage_ttl_image=100)
    for key in ("old.png", "young.png"):
        before.put(key, b"picture")
    _make_older(tmp_path / "old.png.picture", 110)
    _folder(tmp_path, storage_ttl_image=100).put("new.png", b"picture")
    assert _files(tmp_path) == ["new.png", "young.png"]


def test_partial_files_of_interrupted_writes_are_removed_later(tmp_path: Path) -> None:
    (tmp_path / ".part-dead").write_bytes(b"half")
    (tmp_path / ".part-live").write_bytes(b"half")
    _make_older(tmp_path / ".part-dead", 700)
    _folder(tmp_path).put("new.png", b"picture")
    assert _files(tmp_path) == [".part-live", "new.png"]


def test_partial_files_do_not_count_as_pictures(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / f".part-{name}").write_bytes(b"half")
    store = _folder(tmp_path, storage_max_items=1)
    store.put("a.png", b"picture")
    assert store.get("a.png") == b"picture"


def test_the_folder_exceeds_a_larger_item_limit_by_an_eighth_at_most(tmp_path: Path) -> None:
    store = _folder(tmp_path, storage_max_items=32)
    largest = 0
    for number in range(200):
        store.put(f"{number}.png", b"picture")
        largest = max(largest, len(_files(tmp_path)))
    assert 32 <= largest <= 32 + 32 // 8


def test_other_files_in_the_folder_stay(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    for name in (".hidden", "photo.png"):
        (tmp_path / name).write_bytes(b"somebody's")
    for name in ("inside", ".hidden", "photo.png"):
        _make_older(tmp_path / name, 100_000)
    store = _folder(tmp_path, storage_max_items=1, storage_ttl_image=100)
    for key in ("a.png", "b.png"):
        store.put(key, b"picture")
    assert len(_files(tmp_path)) == 4
    assert {".hidden", "inside", "photo.png"} < set(_files(tmp_path))


def test_the_age_of_a_file_does_not_depend_on_the_time_zone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = _folder(tmp_path, storage_ttl_image=100)
    try:
        for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            store.put("a.png", b"picture")
            assert store.get("a.png") == b"picture"
            _make_older(tmp_path / "a.png.picture", 110)
            assert store.get("a.png") is None
    finally:
        monkeypatch.undo()
        time.tzset()


class _Bucket(MemoryFileSystem):
    """A file system that caches listings and trusts them, as those for object stores do."""

    protocol = "imagegen-bucket"
    store: dict[str, Any] = {}  # noqa: RUF012 - as in the base class
    cachable = False  # each instance represents a process

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        files = super().ls(path, detail=True, **kwargs)
        self.dircache[path] = files
        return files if detail else [file["name"] for file in files]

    def modified(self, path: str) -> Any:
        parent = path.rpartition("/")[0]
        if parent in self.dircache and path not in {file["name"] for file in self.dircache[parent]}:
            raise FileNotFoundError(path)
        return super().modified(path)

    def invalidate_cache(self, path: str | None = None) -> None:
        self.dircache.clear()

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        self.invalidate_cache()
        super().pipe_file(path, value, mode=mode, **kwargs)


def test_a_picture_that_another_process_put_into_a_bucket_is_returned() -> None:
    fsspec.register_implementation("imagegen-bucket", _Bucket, clobber=True)
    stores: list[ImageStore] = [
        Kind("filesystem", "imagegen-bucket://pictures", lambda key, seconds: None).open() for _ in range(2)
    ]
    stores[0].put("a.png", b"picture")
    stores[1].put("b.png", b"picture")
    assert stores[0].get("b.png") == b"picture"


@pytest.mark.parametrize("url", [None, ""])
def test_a_missing_storage_url_is_a_settings_error_with_advice(url: str | None) -> None:
    with pytest.raises(SettingsError, match=r"set STORAGE_URL to a folder, or to a URL such as s3://"):
        Kind("filesystem", url, lambda key, seconds: None).open()


@pytest.mark.parametrize("url", ["nix://place", "nix://me:sesame@place"])
def test_an_unknown_protocol_is_a_settings_error(url: str) -> None:
    with pytest.raises(SettingsError, match=r"storage_url=nix://.*place") as caught:
        Kind("filesystem", url, lambda key, seconds: None).open()
    assert "sesame" not in str(caught.value)


def test_a_folder_that_cannot_be_created_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"Not a directory|exists"):
        _folder(tmp_path / "file" / "pictures")


# Keys and kinds


@given(key=_KEYS)
def test_valid_keys_are_accepted(key: str) -> None:
    assert check_key(key) == key


def test_new_keys_are_valid_and_unique() -> None:
    keys = {new_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert all(check_key(f"{key}.png") and check_key(key) for key in keys)


@given(
    key=st.one_of(
        st.builds("{}{}{}".format, st.text(), st.sampled_from(["/", "\\", "\0", "\n", "..", ":", "%2f"]), st.text()),
        st.text().map(".{}".format),
        st.text(alphabet="abcXYZ019-_", min_size=129),
        st.builds("{}.{}".format, _KEYS, st.text(alphabet="abc", min_size=9)),
        st.just(""),
    )
)
@example("a.png\n")
@example("../a.png")
@example("a" * 129)
@example("\u0661")  # a digit in Unicode, but not in ASCII
def test_a_key_that_leaves_the_folder_or_is_too_long_is_refused(key: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"Invalid key .*: expected up to 128 letters"):
        check_key(key)


def test_an_unknown_kind_is_a_settings_error_that_lists_all_kinds() -> None:
    with pytest.raises(
        SettingsError, match=r"Unknown storage 'nix': expected .*filesystem, memory,.* redis.* disabled"
    ):
        Registry.discover().store("nix")


@pytest.mark.parametrize("factory", ["imagegen_core.no_such_module:Store", "imagegen_core.storage.memory:NoSuchStore"])
def test_a_store_that_does_not_import_is_a_plugin_error_with_advice(factory: str) -> None:
    message = (
        f"Storage 'shed' cannot be used, importing {factory} raised .*; `imagegen plugins doctor` says whom to ask"
    )
    with pytest.raises(PluginError, match=message):
        StoreDef("shed", "out there", factory, "shed").load(Settings.load(environ={}))
