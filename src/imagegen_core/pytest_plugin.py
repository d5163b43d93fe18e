"""pytest plugin (entry point ``imagegen``): the kit's mark, and an explanation in each failed check's report."""

from __future__ import annotations

import inspect
from collections.abc import Generator

import pytest

QUICK = "imagegen_quick"
"""The mark of the kit's quick checks; see `imagegen_core.testing.quick`."""

_KIT = "imagegen_core.testing."

pytest.register_assert_rewrite("imagegen_core.testing")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark of the kit's quick checks."""
    config.addinivalue_line("markers", f"{QUICK}: a check of imagegen's kit that draws few pictures")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add a check's explanation to its report, and show it if the check fails."""
    report = yield
    function = getattr(item, "function", None)
    if function is not None and function.__module__.startswith(_KIT):
        explanation = inspect.getdoc(function) or ""
        report.user_properties.append(("protects", explanation))
        if report.failed:
            report.sections.append(("The purpose of this check", explanation))
    return report
