"""A1111's png-info: text of every format we write, in base64 of every form."""

from __future__ import annotations

import base64
import textwrap
from collections.abc import Callable

import pytest

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
    answer = server.http.post("/sdapi/v1/png-info", json={"image": text})
    assert answer.status_code == 200, answer.text
    info: str = answer.json()["info"]
    return info


def test_the_text_of_every_format_that_the_server_writes(server: Running) -> None:
    drawn = server.draw().content
    expected = _info(server, _FORMS["plain"](drawn))
    assert expected.startswith("a star\nSteps: 4, ")
    for form in ("png", "jpeg", "webp"):
        body = {"prompt": "a star", "size": "64x64", "seed": 7, "output_format": form}
        answer = server.http.post("/v1/images/generations", json=body).json()
        assert _info(server, answer["data"][0]["b64_json"]) == expected
    enlarged = server.draw(superres=True, superres_format="jpeg").content
    assert "Postprocess upscale by: 2" in _info(server, _FORMS["plain"](enlarged))
    again = server.http.post("/superres", files={"file": ("a.jpg", enlarged)}).content
    assert _info(server, _FORMS["plain"](again)).startswith("a star\nSteps: 4, ")


@pytest.mark.parametrize("form", _FORMS)
def test_base64_is_read_in_every_form(server: Running, form: str) -> None:
    drawn = server.draw().content
    assert _info(server, _FORMS[form](drawn)) == _info(server, _FORMS["plain"](drawn))
    answer = server.http.post("/sdapi/v1/extra-single-image", json={"image": _FORMS[form](drawn)})
    assert answer.status_code == 200


@pytest.mark.parametrize("text", ["", "ä", "a", "*" * 8, "data:image/png;base64,!", "A" * 300_001 + "*"])
def test_other_text_is_a_sentence(server: Running, text: str) -> None:
    answer = server.http.post("/sdapi/v1/png-info", json={"image": text})
    assert answer.status_code == 422
    assert any(words in answer.json()["detail"] for words in ("is no base64", "it is no PNG", "Invalid image"))
