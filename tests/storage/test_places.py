"""Places that cannot store pictures, and URLs that contain secrets."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagegen_core.errors import ImagegenError, SettingsError, StorageError
from imagegen_core.redaction import redact
from imagegen_core.settings import Settings
from imagegen_core.storage.filesystem import FilesystemStore


def _open(url: str) -> FilesystemStore:
    return FilesystemStore(Settings.load(environ={}, storage_provider="filesystem", storage_url=url))


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a", "b")
    with tarfile.open(tmp_path / "a.tar", "w"):
        pass
    (tmp_path / "a.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    "url",
    [
        "zip://pictures::{}/a.zip",
        "zip::file://{}/a.zip",
        "tar://pictures::{}/a.tar",
        "reference://",
        "reference://::{}/a.json",
        "data:,abc",
        "jlab://x",
        "generic://x",
        "nix://place",
        "blockcache::memory:///cached",
        "async_wrapper::file://{}/wrapped",
    ],
)
def test_a_place_that_cannot_store_pictures_is_a_settings_error(archives: Path, url: str) -> None:
    with pytest.raises(SettingsError, match="name a folder, or an object store that pictures can be written to"):
        _open(url.format(archives))


@pytest.mark.parametrize(
    "url", ["zip://missing", "zip://a::{}/missing.zip", "ftp://127.0.0.1:1/a", "http://127.0.0.1:1/"]
)
def test_a_missing_place_is_an_error_with_advice(archives: Path, url: str) -> None:
    with pytest.raises(ImagegenError, match=r": (name a folder|see whether it can be reached)|; name a folder"):
        _open(url.format(archives))


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk that cannot be written to."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    command = [mount or "", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(disk)]
    if not mount or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("needs permission to mount a tmpfs")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_read_only_disk_is_a_warning_first_and_a_storage_error_on_use(
    read_only: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = _open(str(read_only))
    assert "Read-only file system): mount it so that it can be written to" in caplog.text
    with pytest.raises(StorageError, match="mount it so that it can be written to"):
        store.put("a.png", b"picture")
    with pytest.raises(StorageError, match="mount it so that it can be written to"):
        store.check()
    with pytest.raises(StorageError, match="mount it so that it can be written to"):
        _open(str(read_only / "pictures"))


@pytest.mark.parametrize(
    ("url", "redacted"),
    [
        ("redis://me:sesame@host:6379/0", "redis://host:6379/0"),
        ("redis://host/0?password=sesame&db=1", "redis://host/0?password=***&db=1"),
        ("abfs://c@account/x?sv=1&sig=sesame%3D", "abfs://account/x?sv=1&sig=***"),
        ("https://host/x?token=sesame#part", "https://host/x?token=***#part"),
        (
            "s3://b/x?X-Amz-Credential=sesame&X-Amz-Signature=sesame",
            "s3://b/x?X-Amz-Credential=***&X-Amz-Signature=***",
        ),
        ("https://h/?ACCESS_TOKEN=sesame&api_key=sesame", "https://h/?ACCESS_TOKEN=***&api_key=***"),
        ("cannot reach https://me:sesame@h/x?secret=sesame today", "cannot reach https://h/x?secret=*** today"),
        ("/var/lib/pictures", "/var/lib/pictures"),
        ("s3://bucket/pictures?region=eu", "s3://bucket/pictures?region=eu"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, redacted: str) -> None:
    assert redact(url) == redacted


@given(
    secret=st.text(alphabet="abcXYZ019%+=/.-_", min_size=8).filter(lambda secret: secret not in "://host/x?a=b&***"),
    name=st.sampled_from(["token", "sig", "signature", "key", "api_key", "password", "X-Amz-Security-Token", "secret"]),
)
def test_no_secret_parameter_is_shown(secret: str, name: str) -> None:
    assert secret not in redact(f"https://host/x?a=b&{name}={secret}&c=d")


def test_errors_of_a_place_show_no_secrets() -> None:
    with pytest.raises(ImagegenError) as caught:
        _open("http://me:sesame@127.0.0.1:1/pictures?token=open")
    assert "sesame" not in str(caught.value)
    assert "open" not in str(caught.value).replace("opened", "")
