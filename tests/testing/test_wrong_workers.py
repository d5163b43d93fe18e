"""The matching check catches each wrong worker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

WRONG = Path(__file__).parent / "wrong"

CAUGHT_BY = {
    "AnotherGenerator": "global_random_state_does_not_matter",
    "AnotherPass": "latents_belong_to_the_picture",
    "AnyDevice": "a_missing_device_is_refused",
    "BeginsAlike": "jobs_begun_in_parts_are_independent",
    "BlindToPrompts": "the_prompt_changes_the_picture",
    "BreaksOnErrors": "a_refused_request_changes_nothing",
    "ChangesItsPlan": "the_numerics_plan_is_fixed",
    "CutsSeeds": "any_seed_is_used_unchanged[9223372036854775807]",
    "DrawsInPreviews": "a_preview_changes_nothing",
    "DrawsOtherwiseAfterTrials": "batched_pictures_equal_single_pictures",
    "ForgetsGuidance": "the_recipe_draws_the_picture_again",
    "ForgetsSettings": "worker_is_constructed_without_arguments",
    "GroupsAll": "states_of_one_group_can_be_stepped_together",
    "GuessesASampler": "the_recipe_draws_the_picture_again",
    "HoldsOn": "a_dropped_worker_is_freed",
    "HurriesOn": "step_advances_by_one",
    "IgnoresNegativePrompts": "supported_fields_have_an_effect[negative_prompt]",
    "IgnoresStops": "a_cancelled_call_ends_early",
    "IgnoresStyles": "an_unknown_style_is_refused",
    "KeepsLatents": "fifty_jobs_leak_nothing",
    "LeavesFiles": "fifty_jobs_leak_nothing",
    "LeavesThreads": "jobs_start_no_threads",
    "Mixes": "trial_is_correct",
    "MovesInTrials": "trial_is_correct",
    "NativeAlways": "the_picture_has_the_requested_size",
    "NeedsNewFields": "any_object_serves_as_a_request",
    "NotOnOtherThreads": "any_thread_may_draw",
    "PlainErrors": "bad_input_is_refused[no size at all]",
    "Prints": "drawing_prints_nothing",
    "Remembers": "earlier_pictures_do_not_matter",
    "ResolvesFutures": "the_future_is_not_touched",
    "SameAlways": "other_seeds_give_other_pictures",
    "SeedsTheProcess": "global_random_state_is_not_changed",
    "SharesState": "interleaved_jobs_are_independent",
    "Silent": "each_step_is_reported",
    "SquareByDefault": "the_default_size_is_the_native_size",
    "TellsNoSeed": "a_random_seed_is_returned",
    "TurnsPictures": "the_picture_has_the_requested_size",
    "WideLatents": "latents_are_8x8_float16",
    "WritesIntoRequests": "the_request_is_not_modified",
    "with-torch": "plugin_works",
}
# These checks take seconds each, so they run only for the faults that they should catch.
_SLOW = ("fifty_jobs_leak_nothing", "plugin_works")


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Each fault's failed checks with their messages, from a single run of pytest."""
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
    deselected = (
        f"--deselect={test_file.name}::Test{number}::test_{check}"
        for number, caught_by in enumerate(CAUGHT_BY.values())
        for check in _SLOW
        if check != caught_by
    )
    configuration = folder / "pytest.ini"
    configuration.write_text("[pytest]\n")
    options = ("-q", "--assert=plain", "-c", configuration)  # with CI=1, pytest would compare pictures for minutes
    command = [sys.executable, "-m", "pytest", *options, f"--junitxml={report}", *deselected, test_file]
    completed = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert completed.returncode == 1, completed.stdout + completed.stderr
    messages: dict[str, dict[str, str]] = {fault: {} for fault in CAUGHT_BY}
    for case in ET.parse(report).iter("testcase"):
        for failure in (*case.iter("failure"), *case.iter("error")):
            fault = list(CAUGHT_BY)[int(case.attrib["classname"].rpartition("Test")[2])]
            messages[fault][case.attrib["name"].removeprefix("test_")] = failure.attrib["message"]
    return messages


@pytest.mark.parametrize(("fault", "check"), CAUGHT_BY.items(), ids=CAUGHT_BY)
def test_a_wrong_worker_is_caught_by_the_matching_check(
    failures: dict[str, dict[str, str]], fault: str, check: str
) -> None:
    assert check in failures[fault], f"{fault} failed in {sorted(failures[fault])}"


def test_most_faults_fail_only_a_few_checks(failures: dict[str, dict[str, str]]) -> None:
    """Only two workers fail many checks: the first cannot be made, and the second is random."""
    many = {fault: sorted(failed) for fault, failed in failures.items() if len(failed) > 16}
    assert set(many) == {"ForgetsSettings", "AnotherGenerator"}, many
