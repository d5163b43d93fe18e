"""Write all pages of the site into a folder: the pages of `docs`, of the repository's own files, and of the code.

``python docs_build/pages.py`` writes them into `build/pages`, which `mkdocs.yml` names.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import capacity_page
import command_line
import configuration
import http_routes
import repository_files

ROOT = Path(__file__).parent.parent


def write(folder: Path) -> None:
    """Replace a folder by the current pages.

    Args:
        folder: The folder, which may be missing.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "docs", folder)
    made = {
        "reference/configuration.md": configuration.page(),
        "reference/command-line.md": command_line.page(),
        "reference/http.md": http_routes.page(),
        **repository_files.pages(ROOT),
    }
    for name, text in made.items():
        (folder / name).write_text(text, encoding="utf-8")
    page = folder / "capacity.md"
    page.write_text(capacity_page.filled(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build/pages")
