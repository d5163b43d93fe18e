"""The conformance kit without a test file, for ``imagegen plugins check``.

This module does not import the kit. pytest imports it, and rewrites its assertions to show the compared values.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from imagegen_core.errors import ImagegenError, InvalidRequestError, PluginError
from imagegen_core.pytest_plugin import QUICK

Outcome = Literal["passed", "failed", "skipped"]

KITS = {
    "backend": "BackendConformance",
    "plugin": "PluginConformance",
    "sampler": "SamplerConformance",
    "store": "StoreConformance",
    "style": "StyleConformance",
    "upscaler": "UpscalerConformance",
}
"""The kit for each kind of offer; ``plugin`` is for plugins without such offers."""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one check.

    Attributes:
        offer: The offer, such as ``backend mine``.
        check: The check's name, such as ``a seed means the same picture``.
        outcome: ``passed``, ``failed`` or ``skipped``.
        why: The fault, or the reason for skipping.
        protects: The check's purpose.
    """

    offer: str
    check: str
    outcome: Outcome
    why: str
    protects: str


def run_checks(
    offer: str,
    on_result: Callable[[Result], None],
    *,
    quick: bool = False,
    expression: str | None = None,
) -> int:
    """Run the kit of an offer. Output of the checked code is discarded.

    Args:
        offer: An offer of a kind in `KITS`, such as ``backend mine``.
        on_result: Receives each result, as soon as its check has ended.
        quick: Whether to run only the checks with the mark `QUICK`.
        expression: Run only the checks whose names match, as by pytest's ``-k``; None runs all.

    Returns:
        The number of checks that were not selected.

    Raises:
        InvalidRequestError: The expression is invalid.
        PluginError: pytest itself failed.
    """
    noun, _, name = offer.partition(" ")
    collector = _Collector(offer, on_result)
    with tempfile.TemporaryDirectory(prefix="imagegen-check-") as folder:
        configuration = Path(folder, "pytest.ini")
        configuration.write_text("[pytest]\n", encoding="utf-8")  # so that pytest reads no other configuration
        file = Path(folder, f"test_{re.sub(r'[^0-9A-Za-z]', '_', offer)}.py")  # pytest imports a module's name once
        file.write_text(_CLASS.format(kit=KITS[noun], noun=noun, name=name), encoding="utf-8")
        options = ["-q", "-c", str(configuration), "--rootdir", folder, "-p", "no:cacheprovider"]
        options += ["-m", QUICK] if quick else []
        options += ["-k", expression] if expression else []
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            code = pytest.main([*options, str(file)], plugins=[collector])
    if collector.unreported:
        raise collector.unreported
    match code:
        case pytest.ExitCode.OK | pytest.ExitCode.TESTS_FAILED | pytest.ExitCode.NO_TESTS_COLLECTED:
            return collector.left_out
        case pytest.ExitCode.INTERRUPTED:
            raise KeyboardInterrupt
        case pytest.ExitCode.USAGE_ERROR if expression:
            raise InvalidRequestError(
                f"Invalid -k {expression!r}: expected words of the checks' names with and, or, not and parentheses, "
                "such as 'seed and not random'"
            )
        case _:
            raise PluginError(f"The {offer} cannot be checked: pytest ended with {pytest.ExitCode(code).name}")


_MADE = "All other checks need it."

_CLASS = """
from imagegen_core.testing import {kit}


class TestOffer({kit}):
    {noun} = {name!r}
"""


class _Collector:
    """Collects pytest's reports, and passes each on at once.

    Attributes:
        left_out: The number of checks that were not selected.
        unreported: The error of the function for results, which ends the run.
    """

    def __init__(self, offer: str, on_result: Callable[[Result], None]) -> None:
        self.left_out = 0
        self.unreported: Exception | None = None
        self._offer = offer
        self._on_result = on_result
        self._stdout, self._stderr = sys.stdout, sys.stderr
        self._unmade = ""

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Count the checks that are not selected."""
        self.left_out += len(items)

    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        """Stop at the first error if the offer cannot be created, for example without a checkpoint."""
        error = call.excinfo and call.excinfo.value
        if call.when == "setup" and isinstance(error, ImagegenError):
            self._unmade = item.session.shouldfail = str(error)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Pass on a finished check: it was called, or failed before that."""
        if report.when != "call" and report.passed:
            return
        if self._unmade:
            self._pass_on("it can be made", "failed", self._unmade, _MADE)
            self._unmade = ""
            return
        name = report.nodeid.rpartition("::")[2].removeprefix("test_").replace("_", " ")
        protects = str(dict(report.user_properties).get("protects", ""))
        self._pass_on(name, report.outcome, _why(report), protects)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Pass on a failed collection."""
        if report.failed:
            self._pass_on("the checks can be collected", "failed", report.longreprtext, "")

    def _pass_on(self, check: str, outcome: Outcome, why: str, protects: str) -> None:
        """Pass a result on, with the streams of this process in place of those that discard output."""
        try:
            with contextlib.redirect_stdout(self._stdout), contextlib.redirect_stderr(self._stderr):
                self._on_result(Result(self._offer, check, outcome, why, protects))
        except (ImagegenError, OSError) as error:  # nobody reads the results any more
            self.unreported = error
            pytest.exit("the results cannot be written")


def _why(report: pytest.TestReport) -> str:
    """Return the message of a failure, or the reason of a skip."""
    if report.skipped and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message).splitlines()[0] if crash else report.longreprtext.strip()
