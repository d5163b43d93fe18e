"""A1111's png-info: the text in all formats that the server writes, and all forms of base64."""

from __future__ import annotations

import base64
import textwrap
from collections.abc import Callable

from tests.server.conftest import Running

_FORMS: dict[str, Callable[[bytes], str]] = {
    "plain": lambda data: base64.b64encode(data).decode(),
    "lines of 76 (RFC 2045)": lambda data: base64.encodebytes(data).decode(),
    "lines with CRLF": lambda data: base64.encodebytes(data).decode().replace("\n", "\r\n"),
    "for URLs (RFC 4648)": lambda data: base64.urlsafe_b64encode(data).decode(),
    "without padding": lambda data: base64.b64encode(data).decode().rstrip("="),
    "a data URL": lambda data: "data:image/png;base64," + base64.b64encode(data).decode(),
    "a data URL with a parameter": lambda data: "DATA:image/png;name=a.png;base64," + base64.encodebytes(data).decode(),
    "indented": lambda data: textwrap.indent(base64.encodebytes(data).decode(), "\t "),
}


def _info(server: Running, text: str) -> str:
    response = server.http.post("/sdapi/v1/png-info", json={"image": text})
    assert response.status_code == 200, response.text
    info: str = response.json()["info"]
    return info


def test_text_is_read_from_every_format_that_the_server_writes(server: Running) -> None:
    picture = server.draw().content
    expected = _info(server, _FORMS["plain"](picture))
    assert expected.startswith("a star\nSteps: 4, ")
    for form in ("png", "jpeg", "webp"):
        body = {"prompt": "a star", "size": "64x64", "seed": 7, "output_format": form}
        response = server.http.post("/v1/images/generations", json=body).json()
        assert _info(server, response["data"][0]["b64_json"]) == expected
    enlarged = server.draw(superres=True, superres_format="jpeg").content
    assert "Postprocess upscale by: 2" in _info(server, _FORMS["plain"](enlarged))
    enlarged_twice = server.http.post("/superres", files={"file": ("a.jpg", enlarged)}).content
    assert _info(server, _FORMS["plain"](enlarged_twice)).startswith("a star\nSteps: 4, ")


def test_base64_is_read_in_every_form(server: Running) -> None:
    picture = server.draw().content
    expected = _info(server, _FORMS["plain"](picture))
    for name, form in _FORMS.items():
        assert _info(server, form(picture)) == expected, name
        response = server.http.post("/sdapi/v1/extra-single-image", json={"image": form(picture)})
        assert response.status_code == 200, name


def test_other_text_is_refused_with_a_reason(server: Running) -> None:
    for text in ("", "ä", "a", "*" * 8, "data:image/png;base64,!", "A" * 300_001 + "*"):
        response = server.http.post("/sdapi/v1/png-info", json={"image": text})
        assert response.status_code == 422, text[:40]
        assert any(words in response.json()["detail"] for words in ("is not base64", "it is not a PNG")), response.text
