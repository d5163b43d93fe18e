"""The hook by which mkdocs takes in the pages that are made from the code and from the repository's own files."""

from __future__ import annotations

from pathlib import Path

import capacity_page
import command_line
import configuration
import http_routes
import repository_files
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the made pages to those in the folder; none of them is ever written there."""
    made = {
        "reference/configuration.md": configuration.page(),
        "reference/command-line.md": command_line.page(),
        "reference/http.md": http_routes.page(),
        **repository_files.pages(Path(config.config_file_path).parent),
    }
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - mkdocs'
    """Put the tables that are reckoned where a page names them."""
    return capacity_page.filled(markdown)
