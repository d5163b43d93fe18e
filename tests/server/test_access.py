"""API keys, their limits, and the listening address."""

from __future__ import annotations

import base64

import pytest

from imagegen_core import Settings, SettingsError
from imagegen_core.server.access import check_address
from tests.engine.faults import Gate
from tests.server.conftest import LIMIT, Running, StartServer

PUBLIC = ("/health", "/ready", "/")
BODY = {"prompt": "a star", "size": "64x64", "seed": 7}


@pytest.fixture
def guarded(serve: StartServer) -> Running:
    return serve(api_keys="first, second", queue_per_key=1)


def _basic(key: str) -> str:
    return f"Basic {base64.b64encode(f'me:{key}'.encode()).decode()}"


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer first"},
        {"X-API-Key": "second"},
        {"Authorization": _basic("second")},
    ],
)
def test_valid_keys_are_accepted(guarded: Running, headers: dict[str, str]) -> None:
    assert guarded.http.post("/generate", json=BODY, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer nix"},
        {"Authorization": "first"},
        {"X-API-Key": "first, second"},
        {"Authorization": "Basic %%%"},
        {"Authorization": _basic("third")},
    ],
)
def test_missing_and_invalid_keys_are_refused(guarded: Running, headers: dict[str, str]) -> None:
    response = guarded.http.post("/generate", json=BODY, headers=headers)
    assert (response.status_code, response.json()["type"]) == (401, "unauthorized")
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert guarded.report().finished == 0


def test_all_routes_except_the_public_routes_need_a_key(guarded: Running) -> None:
    document = guarded.http.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        if path not in PUBLIC:
            for method in methods:
                concrete = path.replace("{job_id}", "x").replace("{key}", "x").replace("{model}", "x")
                assert guarded.http.request(method.upper(), concrete).status_code == 401, (method, path)
    for path in PUBLIC:
        assert guarded.http.get(path).status_code == 200


def test_stored_pictures_are_fetched_without_an_api_key(guarded: Running) -> None:
    response = guarded.http.post("/generate", json=BODY, headers={"X-API-Key": "first"})
    address = f"/storage/{response.headers['X-LCM-Image-Key']}"
    assert guarded.http.get(address).content == response.content
    assert guarded.http.delete(address).status_code == 401


def test_jobs_are_visible_to_their_own_key_only(guarded: Running) -> None:
    job = guarded.http.post("/v1/jobs", json=BODY, headers={"X-API-Key": "first"}).json()
    assert guarded.http.get(f"/v1/jobs/{job['id']}", headers={"X-API-Key": "first"}).status_code == 200
    assert guarded.http.get(f"/v1/jobs/{job['id']}", headers={"X-API-Key": "second"}).status_code == 404


def test_each_key_has_its_own_queue_limit(guarded: Running) -> None:
    gate = Gate(shut=True)
    guarded.worker.before["step"] = lambda *_: gate()
    first, second = ({"X-API-Key": key} for key in ("first", "second"))
    assert guarded.http.post("/v1/jobs", json=BODY, headers=first).status_code == 202
    assert gate.reached.wait(LIMIT)
    refused = guarded.http.post("/v1/jobs", json=BODY, headers=first)
    assert (refused.status_code, "Retry-After" in refused.headers) == (429, True)
    assert guarded.http.post("/v1/jobs", json=BODY, headers=second).status_code == 202
    gate.open()
    guarded.until(lambda: guarded.report().finished == 2)
    assert guarded.http.post("/v1/jobs", json=BODY, headers=first).status_code == 202


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org"])
def test_addresses_other_than_loopback_need_keys(host: str) -> None:
    with pytest.raises(SettingsError, match=f"^Not listening on {host} without API keys.*IMAGEGEN_ALLOW_NO_KEYS=1"):
        check_address(Settings(host=host))
    check_address(Settings(host=host, api_keys=("a",)))
    check_address(Settings(host=host, allow_no_keys=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_loopback_needs_no_keys(host: str) -> None:
    check_address(Settings(host=host))


ADMINISTRATION = (
    ("/api/modes/switch", {"mode": "default"}),
    ("/api/modes/reload", None),
    ("/api/models/load", {"mode": "default"}),
    ("/api/models/unload", None),
)


@pytest.mark.parametrize(("path", "body"), ADMINISTRATION)
def test_only_admin_keys_change_the_server(serve: StartServer, path: str, body: object) -> None:
    server = serve(api_keys="plain", admin_keys="chief")
    refused = server.http.post(path, json=body, headers={"X-API-Key": "plain"})
    assert (refused.status_code, refused.json()["type"]) == (403, "forbidden")
    assert refused.json()["detail"].startswith("This changes the server for all clients: send an admin key")
    assert server.http.post(path, json=body, headers={"X-API-Key": "chief"}).status_code not in (401, 403)
    assert server.http.post("/generate", json=BODY, headers={"X-API-Key": "chief"}).status_code == 200


@pytest.mark.parametrize("keys", [{}, {"api_keys": "plain"}])
def test_every_key_changes_the_server_without_admin_keys(serve: StartServer, keys: dict[str, str]) -> None:
    headers = {"X-API-Key": "plain"} if keys else {}
    assert serve(**keys).http.post("/api/models/load", json={"mode": "default"}, headers=headers).status_code == 200


def test_admin_keys_alone_protect_the_server(serve: StartServer) -> None:
    server = serve(admin_keys="chief")
    assert server.http.post("/generate", json=BODY).status_code == 401
    assert server.http.post("/generate", json=BODY, headers={"X-API-Key": "chief"}).status_code == 200
