"""One API key's stored pictures are protected from other keys."""

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
    url = None if request.param == "memory" else str(tmp_path / "pictures")
    return serve(api_keys=["mine", "other"], admin_keys=["admin"], storage_provider=request.param, storage_url=url)


def _send_as(server: Running, key: str, method: str, path: str, **options: Any) -> httpx.Response:
    headers = {"X-API-Key": key} if key else {}
    return server.http.request(method, path, headers=headers, **options)


def _draw(server: Running) -> str:
    body = {"prompt": "a star", "size": "64x64"}
    key: str = _send_as(server, "mine", "POST", "/generate", json=body).headers["X-LCM-Image-Key"]
    return key


def test_anyone_can_read_a_drawn_picture_and_only_its_owner_change_it(server: Running) -> None:
    path = f"/storage/{_draw(server)}"
    assert _send_as(server, "", "GET", path).status_code == 200
    assert _send_as(server, "other", "GET", path).status_code == 200
    assert _send_as(server, "other", "DELETE", path).status_code == 404
    assert _send_as(server, "other", "DELETE", f"{path}.png").status_code == 404
    assert _send_as(server, "other", "DELETE", path.upper().replace("/STORAGE", "/storage")).status_code == 404
    assert _send_as(server, "other", "PUT", path, content=_png()).status_code == 409
    assert _send_as(server, "", "DELETE", path).status_code == 401
    assert _send_as(server, "", "PUT", path, content=_png()).status_code == 401
    picture = _send_as(server, "", "GET", path).content
    assert picture != _png()
    assert _send_as(server, "mine", "PUT", path, content=_png()).status_code == 204
    assert _send_as(server, "", "GET", path).content == _png()
    assert _send_as(server, "mine", "DELETE", path).status_code == 204
    assert _send_as(server, "mine", "GET", path).status_code == 404


def test_an_admin_can_delete_a_drawn_picture(server: Running) -> None:
    assert _send_as(server, "admin", "DELETE", f"/storage/{_draw(server)}").status_code == 204


def test_keys_cannot_delete_other_keys_pictures_without_admin_keys(serve: StartServer) -> None:
    server = serve(api_keys=["mine", "other"])
    assert _send_as(server, "other", "DELETE", f"/storage/{_draw(server)}").status_code == 404


def test_client_chosen_names_are_separate_for_each_key(server: Running) -> None:
    assert _send_as(server, "mine", "PUT", "/storage/a.png", content=_png("red")).status_code == 204
    assert _send_as(server, "other", "GET", "/storage/a.png").status_code == 404
    assert _send_as(server, "other", "DELETE", "/storage/a.png").status_code == 404
    assert _send_as(server, "other", "PUT", "/storage/a.png", content=_png("blue")).status_code == 204
    assert _send_as(server, "mine", "GET", "/storage/a.png").content == _png("red")
    assert _send_as(server, "other", "GET", "/storage/a").content == _png("blue")
    assert _send_as(server, "other", "DELETE", "/storage/a.png").status_code == 204
    assert _send_as(server, "mine", "GET", "/storage/a.png").status_code == 200
    assert _send_as(server, "", "GET", "/storage/a.png").status_code == 401


def test_the_name_in_the_store_is_not_reachable(server: Running) -> None:
    assert _send_as(server, "mine", "PUT", "/storage/a.png", content=_png()).status_code == 204
    caller = hashlib.sha256(b"mine").hexdigest()[:12]
    name = key_of(caller, "a")
    assert server.app.state.context.store.get(name) == _png()
    for key in ("mine", "other"):
        assert _send_as(server, key, "GET", f"/storage/{name}").status_code == 404


def test_clients_cannot_choose_a_uuid(server: Running) -> None:
    path = "/storage/9b2f2f4e-9f0e-4a52-8c7e-0d6a5a1f3b11"
    response = _send_as(server, "mine", "PUT", path, content=_png())
    assert (response.status_code, response.json()["type"]) == (409, "conflict")
    assert "is a UUID, as the server's own keys are" in response.json()["detail"]


def test_all_clients_share_pictures_without_api_keys(serve: StartServer) -> None:
    server = serve()
    for path in ("/storage/a.png", "/storage/9b2f2f4e-9f0e-4a52-8c7e-0d6a5a1f3b11"):
        assert server.http.put(path, content=_png()).status_code == 204
        assert server.http.get(path).content == _png()
        assert server.http.delete(path).status_code == 204


def test_an_empty_file_after_a_crash_counts_as_missing(serve: StartServer, tmp_path: Path) -> None:
    server = serve(storage_provider="filesystem", storage_url=str(tmp_path / "pictures"))
    key = server.draw().headers["X-LCM-Image-Key"]
    for name in (key, "a"):
        server.http.put(f"/storage/{name}", content=_png())
        file = tmp_path / "pictures" / f"{name}.picture"
        modified = file.stat().st_mtime
        file.write_bytes(b"")
        os.utime(file, (modified, modified))
        response = server.http.get(f"/storage/{name}")
        assert (response.status_code, response.json()["type"]) == (404, "not_found")


def test_old_pictures_are_removed_above_the_size_limit(serve: StartServer) -> None:
    server = serve(storage_max_bytes=2**20)
    large = encode_lossy(PIXELS, "jpeg", 92) + bytes(2**19)
    for name in "abc":
        assert server.http.put(f"/storage/{name}", content=large).status_code == 204
    assert [server.http.get(f"/storage/{name}").status_code for name in "abc"] == [404, 404, 200]
