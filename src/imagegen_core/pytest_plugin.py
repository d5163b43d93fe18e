"""pytest plugin (entry point ``imagegen``): add to a failed check's report an explanation of its purpose."""

from __future__ import annotations

import inspect
from collections.abc import Generator

import pytest

_KIT = "imagegen_core.testing."

pytest.register_assert_rewrite("imagegen_core.testing")


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
