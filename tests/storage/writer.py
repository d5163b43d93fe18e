"""A program that stores pictures in a folder until it is killed; test_faults starts it.

For each line on stdin, the program forks a child. The child prints "writing" and its process id, and then stores
pictures until it is killed. After that, the parent prints "dead". A fork is safe here, because there are no threads,
and it saves a hundred imports of the package.
"""

from __future__ import annotations

import os
import sys
from itertools import cycle

from imagegen_core.settings import Settings
from imagegen_core.storage.filesystem import FilesystemStore
from tests.storage.pictures import picture


def _print(words: str) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


def _write(store: FilesystemStore) -> None:
    _print(f"writing {os.getpid()}")
    for key in cycle("abcdefgh"):
        store.put(f"{key}.png", picture())


def main() -> None:
    store = FilesystemStore(Settings.load(environ={}, storage_provider="filesystem", storage_url=sys.argv[1]))
    for _ in sys.stdin:
        child = os.fork()
        if not child:
            _write(store)
        os.waitpid(child, 0)
        _print("dead")


if __name__ == "__main__":
    main()
