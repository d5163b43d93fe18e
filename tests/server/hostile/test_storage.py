"""One key's pictures, and another key."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from PIL import Image

from imagegen_core.images.lossy import encode_lossy
from imagegen_core.storage import key_of
from tests.images.test_reading import PIXELS
from tests.server.conftest import Running, StartServer


def _png(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(params=["memory", "filesystem"])
def server(request: pytest.FixtureRequest, serve: StartServer, tmp_path: Path) -> Running:
    place = None if request.param == "memory" else str(tmp_path / "pictures")
    return serve(api_keys=["mine", "other"], admin_keys=["admin"], storage_provider=request.param, storage_url=place)


def _as(server: Running, key: str, method: str, path: str, **options: Any) -> httpx.Response:
    headers = {"X-API-Key": key} if key else {}
    return server.http.request(method, path, headers=headers, **options)


def _drawn(server: Running) -> str:
    body = {"prompt": "a star", "size": "64x64"}
    key: str = _as(server, "mine", "POST", "/generate", json=body).headers["X-LCM-Image-Key"]
    return key


def test_a_drawn_picture_is_for_all_who_know_its_key_and_its_owners_to_delete(server: Running) -> None:
    path = f"/storage/{_drawn(server)}"
    assert _as(server, "", "GET", path).status_code == 200
    assert _as(server, "other", "GET", path).status_code == 200
    assert _as(server, "other", "DELETE", path).status_code == 404
    assert _as(server, "other", "DELETE", f"{path}.png").status_code == 404
    assert _as(server, "other", "DELETE", path.upper().replace("/STORAGE", "/storage")).status_code == 404
    assert _as(server, "other", "PUT", path, content=_png()).status_code == 409
    assert _as(server, "", "DELETE", path).status_code == 401
    assert _as(server, "", "PUT", path, content=_png()).status_code == 401
    drawn = _as(server, "", "GET", path).content
    assert drawn != _png()
    assert _as(server, "mine", "PUT", path, content=_png()).status_code == 204
    assert _as(server, "", "GET", path).content == _png()
    assert _as(server, "mine", "DELETE", path).status_code == 204
    assert _as(server, "mine", "GET", path).status_code == 404


def test_an_admin_may_delete_a_drawn_picture(server: Running) -> None:
    assert _as(server, "admin", "DELETE", f"/storage/{_drawn(server)}").status_code == 204


def test_without_admin_keys_no_key_deletes_anothers(serve: StartServer) -> None:
    server = serve(api_keys=["mine", "other"])
    assert _as(server, "other", "DELETE", f"/storage/{_drawn(server)}").status_code == 404


def test_keys_that_clients_choose_are_their_own(server: Running) -> None:
    assert _as(server, "mine", "PUT", "/storage/a.png", content=_png("red")).status_code == 204
    assert _as(server, "other", "GET", "/storage/a.png").status_code == 404
    assert _as(server, "other", "DELETE", "/storage/a.png").status_code == 404
    assert _as(server, "other", "PUT", "/storage/a.png", content=_png("blue")).status_code == 204
    assert _as(server, "mine", "GET", "/storage/a.png").content == _png("red")
    assert _as(server, "other", "GET", "/storage/a").content == _png("blue")
    assert _as(server, "other", "DELETE", "/storage/a.png").status_code == 204
    assert _as(server, "mine", "GET", "/storage/a.png").status_code == 200
    assert _as(server, "", "GET", "/storage/a.png").status_code == 401


def test_the_name_in_the_store_leads_nowhere(server: Running) -> None:
    assert _as(server, "mine", "PUT", "/storage/a.png", content=_png()).status_code == 204
    caller = hashlib.sha256(b"mine").hexdigest()[:12]
    name = key_of(caller, "a")
    assert server.app.state.studio.store.get(name) == _png()
    for key in ("mine", "other"):
        assert _as(server, key, "GET", f"/storage/{name}").status_code == 404


def test_a_uuid_is_no_key_to_choose(server: Running) -> None:
    path = "/storage/9b2f2f4e-9f0e-4a52-8c7e-0d6a5a1f3b11"
    answer = _as(server, "mine", "PUT", path, content=_png())
    assert (answer.status_code, answer.json()["type"]) == (409, "conflict")
    assert "is a UUID, as the server's own keys are" in answer.json()["detail"]


def test_without_keys_everybody_shares_their_pictures(serve: StartServer) -> None:
    server = serve()
    for path in ("/storage/a.png", "/storage/9b2f2f4e-9f0e-4a52-8c7e-0d6a5a1f3b11"):
        assert server.http.put(path, content=_png()).status_code == 204
        assert server.http.get(path).content == _png()
        assert server.http.delete(path).status_code == 204


def test_a_file_that_a_crash_left_empty_is_not_there(serve: StartServer, tmp_path: Path) -> None:
    server = serve(storage_provider="filesystem", storage_url=str(tmp_path / "pictures"))
    key = server.draw().headers["X-LCM-Image-Key"]
    for name in (key, "a"):
        server.http.put(f"/storage/{name}", content=_png())
        file = tmp_path / "pictures" / f"{name}.picture"
        modified = file.stat().st_mtime
        file.write_bytes(b"")
        os.utime(file, (modified, modified))
        answer = server.http.get(f"/storage/{name}")
        assert (answer.status_code, answer.json()["type"]) == (404, "not_found")


def test_pictures_are_kept_up_to_their_bytes(serve: StartServer) -> None:
    server = serve(storage_max_bytes=2**20)
    large = encode_lossy(PIXELS, "jpeg", 92) + bytes(2**19)
    for name in "abc":
        assert server.http.put(f"/storage/{name}", content=large).status_code == 204
    assert [server.http.get(f"/storage/{name}").status_code for name in "abc"] == [404, 404, 200]
