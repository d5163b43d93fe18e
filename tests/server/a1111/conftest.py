"""The unmodified client webuiapi, and requests with small pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import pytest
import webuiapi
from PIL import Image

from tests.pictures_in.conftest import picture
from tests.server.conftest import Running, running


def client_of(server: Running, **options: Any) -> webuiapi.WebUIApi:
    """Return a client of a server."""
    address = urlsplit(server.url)
    return webuiapi.WebUIApi(host=address.hostname, port=address.port, sampler="LCM", steps=4, **options)


@pytest.fixture
def client(server: Running) -> webuiapi.WebUIApi:
    return client_of(server)


def base64_of(image: Image.Image, form: str = "PNG") -> str:
    """Encode an image."""
    buffer = io.BytesIO()
    image.save(buffer, form)
    return base64.b64encode(buffer.getvalue()).decode()


def pixels_of(text: str) -> npt.NDArray[np.uint8]:
    """Decode a picture of a response to RGB, [height, width, 3]."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"))


@dataclass
class Poster:
    """Posts bodies to a route, with small defaults.

    Attributes:
        server: The server.
        route: The route's name.
        defaults: Fields of each body.
    """

    server: Running
    route: str
    defaults: dict[str, Any]

    def answer(self, **fields: Any) -> dict[str, Any]:
        """Return the JSON of a response of status 200."""
        response = self.server.http.post(f"/sdapi/v1/{self.route}", json=self.defaults | fields)
        assert response.status_code == 200, response.text
        return dict(response.json())

    def draw(self, **fields: Any) -> npt.NDArray[np.uint8]:
        """Return the pixels of the only picture."""
        (image,) = self.answer(**fields)["images"]
        return pixels_of(image)

    def refusal(self, **fields: Any) -> str:
        """Return the sentence of a response of status 422."""
        response = self.server.http.post(f"/sdapi/v1/{self.route}", json=self.defaults | fields)
        assert response.status_code == 422, response.text
        return str(response.json()["detail"])

    def steps_of(self, seed: int) -> int:
        """Return the number of steps of the pictures with a seed."""
        return sum(batch.count(seed) for batch in self.server.worker.batches)


@pytest.fixture(scope="package")
def shared_server(tiny_worker: Any) -> Iterator[Running]:
    """A server for tests that change nothing in it."""
    with running(tiny_worker) as server:
        yield server


@pytest.fixture
def img2img(shared_server: Running) -> Poster:
    small = {"prompt": "a lake at dawn", "seed": 7, "width": 64, "height": 48, "steps": 6, "sampler_name": "Euler"}
    return Poster(shared_server, "img2img", {**small, "init_images": [base64_of(picture())]})


@pytest.fixture
def txt2img(shared_server: Running) -> Poster:
    small = {"prompt": "a lake at dawn", "seed": 7, "width": 64, "height": 48, "steps": 4, "sampler_name": "Euler"}
    return Poster(shared_server, "txt2img", small)
