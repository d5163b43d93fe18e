"""Each wrong worker is caught by the check that names its fault."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

WRONG = Path(__file__).parent / "wrong"

CAUGHT_BY = {
    "AnotherGenerator": "others_random_numbers_do_not_matter",
    "AnotherPass": "latents_belong_to_the_picture",
    "AnyDevice": "a_device_that_is_not_there_is_refused",
    "BeginsAlike": "jobs_that_begin_in_parts_do_not_touch",
    "BlindToPrompts": "the_prompt_matters",
    "BreaksOnErrors": "a_refused_request_breaks_nothing",
    "CutsSeeds": "any_seed_is_used_as_it_is[9223372036854775807]",
    "DrawsInPreviews": "a_preview_changes_nothing",
    "ForgetsSettings": "the_worker_can_be_made_without_arguments",
    "GroupsAll": "states_of_one_group_can_be_stepped_together",
    "HoldsOn": "a_dropped_worker_is_gone",
    "HurriesOn": "a_step_is_one_step",
    "IgnoresNegativePrompts": "what_it_is_not_without_has_an_effect[negative_prompt]",
    "IgnoresStyles": "an_unknown_style_is_refused",
    "KeepsLatents": "fifty_jobs_leave_nothing_behind",
    "LeavesFiles": "fifty_jobs_leave_nothing_behind",
    "LeavesThreads": "it_starts_no_thread_for_each_job",
    "Mixes": "a_proof_is_true",
    "MovesInTrials": "a_proof_is_true",
    "NativeAlways": "the_picture_has_the_size_asked_for",
    "NeedsNewFields": "any_object_serves_as_a_request",
    "NotOnOtherThreads": "any_thread_may_draw",
    "PlainErrors": "bad_input_is_refused[no size at all]",
    "Prints": "drawing_prints_nothing",
    "Remembers": "what_was_drawn_before_does_not_matter",
    "ResolvesFutures": "the_future_is_left_alone",
    "SameAlways": "another_seed_is_another_picture",
    "SeedsTheProcess": "others_random_numbers_are_left_alone",
    "SharesState": "interleaved_jobs_do_not_touch",
    "Silent": "each_step_is_told",
    "SquareByDefault": "a_size_left_out_is_the_native_one",
    "TellsNoSeed": "a_random_seed_is_told",
    "TurnsPictures": "the_picture_has_the_size_asked_for",
    "WideLatents": "latents_are_512_bytes_of_float16",
    "WritesIntoRequests": "the_request_is_left_as_it_is",
    "with-torch": "the_plugin_is_well",
}
# These take seconds each, so they run where they name the fault.
_SLOW = ("fifty_jobs_leave_nothing_behind", "the_plugin_is_well")


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """By fault, the checks that failed and what they said: one run of pytest over all of them."""
    folder = tmp_path_factory.mktemp("wrong")
    info = folder / "imagegen_wrong-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: imagegen-wrong\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[imagegen.plugins]\nwrong = imagegen_wrong.plugin\nwith-torch = imagegen_wrong.with_torch\n"
    )
    classes = (
        f'class Test{number}(BackendConformance):\n    backend = "{fault}"\n' for number, fault in enumerate(CAUGHT_BY)
    )
    test_file = folder / "test_wrong.py"
    test_file.write_text("from imagegen_core.testing import BackendConformance\n\n" + "\n".join(classes))
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{WRONG}", "IMAGEGEN_PLUGINS": "wrong,with-torch"}
    report = folder / "report.xml"
    spared = (
        f"--deselect={test_file.name}::Test{number}::test_{check}"
        for number, caught_by in enumerate(CAUGHT_BY.values())
        for check in _SLOW
        if check != caught_by
    )
    configuration = folder / "pytest.ini"
    configuration.write_text("[pytest]\n")
    options = ("-q", "--assert=plain", "-c", configuration)  # else CI=1 has pytest compare pictures for minutes
    command = [sys.executable, "-m", "pytest", *options, f"--junitxml={report}", *spared, test_file]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    found: dict[str, dict[str, str]] = {fault: {} for fault in CAUGHT_BY}
    for case in ET.parse(report).iter("testcase"):
        for failure in (*case.iter("failure"), *case.iter("error")):
            fault = list(CAUGHT_BY)[int(case.attrib["classname"].rpartition("Test")[2])]
            found[fault][case.attrib["name"].removeprefix("test_")] = failure.attrib["message"]
    return found


@pytest.mark.parametrize(("fault", "check"), CAUGHT_BY.items(), ids=CAUGHT_BY)
def test_a_wrong_worker_is_caught_by_the_check_that_names_its_fault(
    failures: dict[str, dict[str, str]], fault: str, check: str
) -> None:
    assert check in failures[fault], f"{fault} failed in {sorted(failures[fault])}"


def test_a_fault_is_not_blamed_on_everything(failures: dict[str, dict[str, str]]) -> None:
    """Only a worker that cannot even be made fails in more than half of the checks, and one without luck in many."""
    many = {fault: sorted(failed) for fault, failed in failures.items() if len(failed) > 16}
    assert set(many) == {"ForgetsSettings", "AnotherGenerator"}, many
