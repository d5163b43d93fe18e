"""The example plugin imagegen-postcard, installed for a test, and a server for its webhook."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).parent.parent / "examples" / "imagegen-postcard"
SOURCE = EXAMPLE / "src"


def install(folder: Path) -> list[str]:
    """Write the plugin's metadata into `folder`; return the additions to the Python path."""
    info = folder / "imagegen_postcard-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: imagegen-postcard\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[imagegen.plugins]\npostcard = imagegen_postcard.plugin\n")
    return [str(folder), str(SOURCE)]


@contextmanager
def webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Listen for posts; yield the address and the received objects."""
    posts: list[dict[str, Any]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", posts
        finally:
            server.shutdown()
            thread.join()
