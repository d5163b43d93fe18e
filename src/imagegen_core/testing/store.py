"""The contract of every picture store."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from threading import Barrier
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from imagegen_core.plugins.registry import Registry
from imagegen_core.settings import Settings
from imagegen_core.storage.keys import new_key
from imagegen_core.storage.store import ImageStore, StoreDef
from imagegen_core.testing.doctor import check_plugin
from imagegen_core.testing.quick import QUICK

OpenStore = Callable[..., ImageStore]

_KEYS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}(\.[A-Za-z0-9]{1,8})?", fullmatch=True)
_one_store_for_all = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)
_EXPIRES_WITHIN = 30.0
_THREADS = 8
_SUM = 32


class StoreConformance:
    """The contract of an `ImageStore`, to inherit from: set `store` to its name.

    The store is opened at ``STORAGE_URL``, or in a new folder if that is not set. Override the fixture ``place`` for
    another place. A `StoreDef` that is not `shared` skips the check of two stores in one place.

    Attributes:
        store: The store's name in its plugin.
    """

    store: ClassVar[str]

    @pytest.fixture(scope="class")
    @classmethod
    def description(cls) -> StoreDef:
        """Return the store's description by its plugin."""
        return Registry.discover().store(cls.store)

    @pytest.fixture
    def place(self, tmp_path: Path) -> str | None:
        """Return the value of ``STORAGE_URL`` for one check."""
        return Settings.load().storage_url or str(tmp_path / "pictures")

    @pytest.fixture
    def open_store(self, description: StoreDef, place: str | None) -> OpenStore:
        """Return a function that opens a store in that place, with settings such as ``storage_max_items``."""

        def open_with(**given: Any) -> ImageStore:
            return description.load(
                Settings.load(**{"storage_provider": description.name, "storage_url": place, **given})
            )

        return open_with

    @QUICK
    def test_plugin_works(self, description: StoreDef) -> None:
        """Every command imports every plugin: a plugin with heavy imports, output or faults harms all of them."""
        check_plugin("store", description.name)

    @_one_store_for_all
    @given(key=_KEYS, data=st.binary(max_size=5000))
    @example(key="a" * 128 + ".abcdefgh", data=bytes(range(256)) * 4000)
    @example(key="empty.png", data=b"")
    def test_get_returns_the_bytes_of_put(self, open_store: OpenStore, key: str, data: bytes) -> None:
        """A changed picture is a damaged picture."""
        store = open_store()
        store.put(key, data)
        got = store.get(key)
        assert got == data
        assert type(got) is bytes

    @_one_store_for_all
    @given(steps=st.lists(st.tuples(st.sampled_from("abc"), st.none() | st.binary(max_size=20)), max_size=30))
    def test_it_behaves_like_a_dictionary(self, open_store: OpenStore, steps: list[tuple[str, bytes | None]]) -> None:
        """Whatever was put and deleted before, the last operation counts."""
        store = open_store()
        for key in "abc":
            store.delete(key)
        expected: dict[str, bytes] = {}
        for key, data in steps:
            if data is None:
                assert store.delete(key) is (expected.pop(key, None) is not None)
            else:
                store.put(key, data)
                expected[key] = data
            assert {key: store.get(key) for key in "abc"} == {key: expected.get(key) for key in "abc"}

    @QUICK
    def test_put_replaces_a_longer_picture(self, open_store: OpenStore) -> None:
        """Nothing of the old picture remains in the new one."""
        store, key = open_store(), new_key()
        store.put(key, b"long" * 100_000)
        store.put(key, b"short")
        assert store.get(key) == b"short"

    @QUICK
    def test_a_missing_key_is_none(self, open_store: OpenStore) -> None:
        """An expired picture is a normal case, and no error."""
        assert open_store().get(new_key()) is None

    @QUICK
    def test_delete_returns_whether_the_key_existed(self, open_store: OpenStore) -> None:
        """The server's 404 answer depends on it."""
        store, key = open_store(), new_key()
        assert store.delete(key) is False
        store.put(key, b"picture")
        assert store.delete(key) is True
        assert store.delete(key) is False
        assert store.get(key) is None

    def test_a_picture_expires(self, open_store: OpenStore) -> None:
        """Pictures are kept for a promised time. A store that keeps them for ever would fill the disk."""
        store, key = open_store(storage_ttl_image=2), new_key()
        store.put(key, b"picture")
        assert store.get(key) == b"picture"
        ends = time.monotonic() + _EXPIRES_WITHIN
        while store.get(key) is not None:
            assert time.monotonic() < ends, (
                f"storage_ttl_image was 2, and the picture is there after {_EXPIRES_WITHIN} s"
            )
            time.sleep(0.1)
        assert store.delete(key) is False

    def test_the_oldest_pictures_are_removed_beyond_the_limit(self, open_store: OpenStore) -> None:
        """Without a limit a busy server would fill the whole disk."""
        store = open_store(storage_max_items=3, storage_ttl_image=100_000)
        keys = [new_key() for _ in range(7)]
        for key in keys:
            store.put(key, key.encode())
        assert [key for key in keys if store.get(key) == key.encode()] == keys[-3:]
        assert [key for key in keys if store.get(key) is None] == keys[:-3]

    def test_put_makes_a_picture_the_newest(self, open_store: OpenStore) -> None:
        """The picture stored last is removed last, even if it was stored before."""
        store = open_store(storage_max_items=2, storage_ttl_image=100_000)
        first, second, third = (new_key() for _ in range(3))
        for key in (first, second, first, third):
            store.put(key, b"picture")
        assert [store.get(key) for key in (first, second, third)] == [b"picture", None, b"picture"]

    @QUICK
    def test_the_check_passes_and_leaves_nothing(self, open_store: OpenStore) -> None:
        """`/ready` calls it all the time."""
        store, key = open_store(storage_max_items=1), new_key()
        store.put(key, b"picture")
        store.check()
        assert store.get(key) == b"picture"

    def test_concurrent_reads_see_whole_pictures(self, open_store: OpenStore) -> None:
        """The server puts and gets from many threads: a picture is there completely, or not at all."""
        store = open_store(storage_max_items=4)
        together, keys = Barrier(_THREADS), [new_key() for _ in range(3)]

        def put_and_get(number: int) -> int:
            together.wait(timeout=30)
            seen = 0
            for turn in range(30):
                store.put(keys[(number + turn) % 3], _sealed(50_000 + 1000 * number))
                for data in map(store.get, keys):
                    assert data is None or _is_whole(data), "half of a picture was there"
                    seen += data is not None
            return seen

        with ThreadPoolExecutor(_THREADS) as threads:
            seen = list(threads.map(put_and_get, range(_THREADS)))
        assert min(seen) >= 30, "stored pictures were missing"  # its own, or another's in its place

    def test_concurrent_put_and_delete_raise_nothing(self, open_store: OpenStore) -> None:
        """Two users may press the same button."""
        store, same = open_store(storage_max_items=2), new_key()

        def put_and_delete(_number: int) -> None:
            for _ in range(40):
                store.put(same, _sealed(1000))
                store.put(new_key(), _sealed(1000))
                data = store.get(same)
                assert data is None or _is_whole(data)
                store.delete(same)

        with ThreadPoolExecutor(_THREADS) as threads:
            list(threads.map(put_and_delete, range(_THREADS)))

    def test_two_stores_share_pictures(self, description: StoreDef, open_store: OpenStore) -> None:
        """One server may store a picture, and another server may be asked for it."""
        if not description.shared:
            pytest.skip("each process has a store of its own (StoreDef.shared is False)")
        (first, second), key = (open_store(), open_store()), new_key()
        first.put(key, b"picture")
        assert second.get(key) == b"picture"
        assert second.delete(key) is True
        assert first.get(key) is None


def _sealed(size: int) -> bytes:
    """Return random bytes with their checksum at the end."""
    body = os.urandom(size - _SUM)
    return body + sha256(body).digest()


def _is_whole(data: bytes) -> bool:
    return sha256(data[:-_SUM]).digest() == data[-_SUM:]
