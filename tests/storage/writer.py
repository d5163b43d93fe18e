"""A process that keeps putting pictures into a folder, to be killed; started by test_faults.

For each line on stdin it forks a child that says "writing" and its process id, and writes until it is killed, upon
which the parent says "dead". Forking here, where there are no threads, saves importing everything a hundred times.
"""

from __future__ import annotations

import os
import sys
from itertools import cycle

from imagegen_core.settings import Settings
from imagegen_core.storage.filesystem import FilesystemStore
from tests.storage.pictures import picture


def _say(words: str) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


def _write(store: FilesystemStore) -> None:
    _say(f"writing {os.getpid()}")
    for key in cycle("abcdefgh"):
        store.put(f"{key}.png", picture())


def main() -> None:
    store = FilesystemStore(Settings.load(environ={}, storage_provider="filesystem", storage_url=sys.argv[1]))
    for _ in sys.stdin:
        child = os.fork()
        if not child:
            _write(store)
        os.waitpid(child, 0)
        _say("dead")


if __name__ == "__main__":
    main()
