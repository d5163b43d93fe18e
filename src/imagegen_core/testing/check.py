"""The conformance kit without a test file, for ``imagegen plugins check``."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from imagegen_core.errors import ImagegenError, PluginError

Outcome = Literal["passed", "failed", "skipped"]

KITS = {
    "backend": "BackendConformance",
    "sampler": "SamplerConformance",
    "store": "StoreConformance",
    "style": "StyleConformance",
    "upscaler": "UpscalerConformance",
}
"""The kit for each kind of offer."""


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


def run_checks(offers: Iterable[str]) -> list[Result]:
    """Run the kit for each of a plugin's offers, such as ``backend mine``; skip offers without a kit.

    Output of the checked code is discarded.

    Raises:
        PluginError: pytest itself failed.
    """
    collected = _Collector()
    with tempfile.TemporaryDirectory(prefix="imagegen-check-") as folder:
        configuration = Path(folder, "pytest.ini")
        configuration.write_text("[pytest]\n", encoding="utf-8")  # so that pytest reads no other configuration
        options = ["-q", "-c", str(configuration), "--rootdir", folder, "-p", "no:cacheprovider"]
        for number, offer in enumerate(offers):
            noun, _, name = offer.partition(" ")
            if noun not in KITS:
                continue
            collected.offer = offer
            file = Path(folder, f"test_offer_{number}.py")
            file.write_text(_CLASS.format(kit=KITS[noun], noun=noun, name=name), encoding="utf-8")
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                code = pytest.main([*options, str(file)], plugins=[collected])
            if code == pytest.ExitCode.INTERRUPTED:
                raise KeyboardInterrupt
            if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
                raise PluginError(f"The {offer} cannot be checked: pytest ended with {pytest.ExitCode(code).name}")
    return collected.results


_MADE = "All other checks need it."

_CLASS = """
from imagegen_core.testing import {kit}


class TestOffer({kit}):
    {noun} = {name!r}
"""


class _Collector:
    """Collects pytest's reports."""

    def __init__(self) -> None:
        self.offer = ""
        self.results: list[Result] = []
        self._unmade = ""

    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        """Stop at the first error if the offer cannot be created, for example without a checkpoint."""
        error = call.excinfo and call.excinfo.value
        if call.when == "setup" and isinstance(error, ImagegenError):
            self._unmade = item.session.shouldfail = str(error)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record a finished check: it was called, or failed before that."""
        if report.when != "call" and report.passed:
            return
        if self._unmade:
            self.results.append(Result(self.offer, "it can be made", "failed", self._unmade, _MADE))
            self._unmade = ""
            return
        name = report.nodeid.rpartition("::")[2].removeprefix("test_").replace("_", " ")
        protects = str(dict(report.user_properties).get("protects", ""))
        self.results.append(Result(self.offer, name, report.outcome, _why(report), protects))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Record a failed collection."""
        if report.failed:
            self.results.append(Result(self.offer, "the checks can be collected", "failed", report.longreprtext, ""))


def _why(report: pytest.TestReport) -> str:
    """Return the message of a failure, or the reason of a skip."""
    if report.skipped and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message).splitlines()[0] if crash else report.longreprtext.strip()
