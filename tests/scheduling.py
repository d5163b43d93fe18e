"""The distribution of test files to the processes of one run."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

_CLUSTER = "tests/cluster/"
_LONG = (  # minutes each: no process begins with them while the others have nothing left
    _CLUSTER,
    "tests/testing/test_our_backends.py",
    "tests/docs/test_snippets.py",
    "tests/plugins/test_new.py",
    "tests/test_full_size.py",
    "tests/testing/test_wrong_workers.py",
    "tests/plugins/test_isolation.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    config.option.loadscopereorder = False
    return FileScheduling(config, log)


def long_first(items: list[pytest.Item]) -> None:
    """Begin with the long files, so that all processes end at the same time."""
    items.sort(key=lambda item: not item.nodeid.startswith(_LONG))


class FileScheduling(LoadFileScheduling):
    """Give each process whole files in order, and one process all cluster tests, because they share a cluster."""

    def _split_scope(self, nodeid: str) -> str:
        return _CLUSTER if nodeid.startswith(_CLUSTER) else super()._split_scope(nodeid)

    def remove_node(self, node: Any) -> Any:
        """Drop the finished files of a process that died: xdist would hand them out again, and wait for their tests."""
        files = self.assigned_work[node]
        self.assigned_work[node] = {file: tests for file, tests in files.items() if not all(tests.values())}
        return super().remove_node(node)
