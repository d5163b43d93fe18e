"""The site builds without a warning, is complete, and loads nothing from other hosts."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import imagegen_core
import imagegen_core.diffusion
import imagegen_core.testing
from imagegen_core import Settings
from imagegen_core.server import create_app
from imagegen_core.server.errors import TABLE
from tests.docs.fences import ROOT

# The addresses that a browser loads by itself: scripts, styles, pictures, frames, and addresses in styles.
_LOADED = re.compile(r"""<(?:script|img|iframe|source|link)\b[^>]*?(?:src|href)=["']?([^"' >]+)|url\(["']?([^"')]+)""")

Read = Callable[[str], str]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site, in a folder that looks like the repository."""
    folder = tmp_path_factory.mktemp("repository")
    for name in ("examples", "src", "tests"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "mkdocs.yml", folder)  # a copy, because paths are relative to the file's real folder
    pages = [sys.executable, ROOT / "docs_build/pages.py", "build/pages"]
    for command in (pages, [sys.executable, "-m", "zensical", "build", "--strict"]):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


@pytest.fixture
def text(site: Path) -> Read:
    """A function that returns the text of a page, without its markup."""
    return lambda page: html.unescape(re.sub(r"<[^>]+>", "", (site / page / "index.html").read_text(encoding="utf-8")))


def test_no_page_loads_anything_from_other_hosts(site: Path) -> None:
    files = [*site.rglob("*.html"), *site.rglob("*.css")]
    loaded = {
        address
        for file in files
        for match in _LOADED.findall(file.read_text(encoding="utf-8"))
        for address in match
        if address
    }
    assert any(address.endswith(".css") for address in loaded)
    assert {address for address in loaded if re.match(r"(https?:)?//", address)} == set()


def test_every_picture_and_every_page_of_the_menu_exists(site: Path) -> None:
    for page in site.rglob("*.html"):
        for address in re.findall(r"""<img\b[^>]*?src=["']?([^"' >]+)""", page.read_text(encoding="utf-8")):
            assert (page.parent / address).is_file(), f"{page.relative_to(site)} shows {address}"
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    pages = re.findall(r"[\w/.-]+\.md", nav)
    assert "glossary.md" in pages
    assert {name for name in pages if not (site.parent / "build/pages" / name).is_file()} == set()


def test_every_setting_is_listed_with_its_variables(text: Read) -> None:
    shown = text("reference/configuration")
    for name in Settings.model_fields:
        assert f"\n{name}" in shown
        assert name == "styles" or f"IMAGEGEN_{name.upper()}" in shown
    assert "SDXL_MODEL, SD15_MODEL, IMAGEGEN_MODEL, MODEL" in shown


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_settings_example_is_valid(name: str, import_script: Callable[[str], Any], tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(import_script("configuration").toml_of(name))
    settings = Settings.load(environ={"IMAGEGEN_CONFIG": str(tmp_path / "a.toml")})
    assert settings.model_fields_set == {name}


def test_every_route_and_error_is_listed(text: Read) -> None:
    shown = text("reference/http")
    for path, methods in create_app(Settings()).openapi()["paths"].items():
        for method in methods:
            assert re.search(rf"{method.upper()} [^\n]*{re.escape(path)}", shown)
    for _, status, kind in TABLE:
        assert re.search(rf"{status}\s+{kind}\s", shown)


def test_every_command_and_option_is_listed(text: Read) -> None:
    shown = text("reference/command-line")
    for command in ("generate", "serve", "plugins new", "plugins check", "models inspect", "config show"):
        assert f"imagegen {command}" in shown
    assert "--negative" in shown
    assert "Guidance scale: above 1.0 the prompt is pushed" in shown


def test_every_public_name_is_listed(site: Path) -> None:
    page = (site / "reference/python/index.html").read_text(encoding="utf-8")
    for module in (imagegen_core, imagegen_core.diffusion, imagegen_core.testing):
        for name in module.__all__:
            assert f'id="{module.__name__}.{name}"' in page, f"add ::: {module.__name__}.{name} to the page"


def test_every_constant_and_table_of_the_capacity_page_is_listed(
    site: Path, text: Read, import_script: Callable[[str], Any]
) -> None:
    shown, capacity = text("capacity"), import_script("capacity")
    for part in (capacity.Sdxl, capacity.Front, capacity.Site):
        for constant in fields(part):
            assert re.search(rf"{constant.name}\s", shown)
            assert re.match("(measured|assumption): .", constant.metadata["basis"])
    page = (site / "capacity/index.html").read_text(encoding="utf-8")
    assert page.count("<table>") == len(import_script("capacity_page").TABLES)


def test_the_readme_is_the_first_page(text: Read, import_script: Callable[[str], Any]) -> None:
    assert "Serve your own Stable Diffusion checkpoints to many clients at once" in text("")
    links = import_script("repository_files").as_page(
        "[a](docs/server.md#errors) ![b](docs/images/x.png) [c](LICENSE) [d](https://e.org)"
    )
    assert links == "[a](server.md#errors) ![b](images/x.png) c (`LICENSE`) [d](https://e.org)"
