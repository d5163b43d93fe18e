"""The page's fields for the parameters that plugins declare."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import postcard
from tests.server.page.actions import HAS_PLAYWRIGHT, done, draw, fill, recipe
from tests.server.page.conftest import serving

if HAS_PLAYWRIGHT:
    from playwright.sync_api import Page, expect


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with the example plugin."""
    with pytest.MonkeyPatch.context() as patch:
        folders = postcard.install(tmp_path_factory.mktemp("installed"))
        patch.setenv("PYTHONPATH", os.pathsep.join(folders), prepend=os.pathsep)
        with serving(tmp_path_factory.mktemp("page")) as url:
            yield url


def test_a_parameter_has_a_field_that_a_recipe_fills_where_the_server_has_it(
    open_page: Callable[..., Page], address: str
) -> None:
    page = open_page(address)
    field = page.get_by_label("watermark")
    expect(field).to_have_accessible_description("Text for the lower left corner of the picture.")
    fill(page, {"Prompt": "a star", "Size": "64x64", "Steps": "1", "watermark": "Hi"})
    draw(page)
    figure = done(page)
    with page.expect_download() as download:
        figure.get_by_role("link", name="Download").click()
    path = Path(download.value.path())
    assert recipe(path)["parameters"] == {"watermark": "Hi"}
    fill(page, {"watermark": ""})
    figure.get_by_role("button", name="Reuse").click()
    expect(field).to_have_value("Hi")
    plain = open_page()
    expect(plain.get_by_label("watermark")).to_have_count(0)
    plain.get_by_label("Load a PNG's recipe").set_input_files(str(path))
    expect(plain.get_by_text('It was drawn with watermark "Hi", which this server lacks.')).to_be_visible()
