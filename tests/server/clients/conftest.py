"""A server with several modes, and a client to replay programs' requests."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2 as httpx
import pytest
from PIL import Image

from imagegen_core.server import create_app
from imagegen_core.server.a1111.options import CallersOptions
from tests.modes import Zoo, make_zoo
from tests.server.conftest import listening
from tests.waiting import LIMIT, until

ALIASED = """\
  gpt-image-1:
    model: one
    default_size: 64x64
    default_steps: 2
"""
"""A mode with the only model name in LibreChat's requests."""


@dataclass
class Replay:
    """A client of a server.

    Attributes:
        http: The HTTP client for its requests.
        app: The server's application.
    """

    http: httpx.Client
    app: Any

    def get(self, path: str, **headers: str) -> Any:
        """Send the request, check for status 200, and return the response's JSON."""
        response = self.http.get(path, headers=headers)
        assert response.status_code == 200, response.text
        return response.json()

    def post(self, path: str, body: Any, **headers: str) -> Any:
        """Send the request, check for status 200, and return the response's JSON."""
        response = self.http.post(path, json=body, headers=headers)
        assert response.status_code == 200, response.text
        return response.json()


def small(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the client's body with a small picture of two steps, for a fast test."""
    return {**body, "width": 64, "height": 64, "steps": 2}


def picture(text: str) -> Image.Image:
    """Decode a base64 picture from a response."""
    image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
    image.load()
    return image


def encoded(kind: str = "PNG") -> bytes:
    """Return a client's picture of 48x56 pixels."""
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((48, 56)).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="package")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return make_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="package")
def server(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replay]:
    folder = tmp_path_factory.mktemp("modes")
    settings = Zoo(zoo.root, zoo.yaml + ALIASED).settings(folder, lora_root=zoo.root / "loras")
    app = create_app(settings)
    with listening(app) as url, httpx.Client(base_url=url, timeout=LIMIT) as http:
        replay = Replay(http, app)
        until(lambda: app.state.context.mode_manager.state == "ready")
        yield replay


@pytest.fixture
def client(server: Replay) -> Replay:
    """A client without options on the server."""
    server.app.state.context.options = CallersOptions()
    return server
