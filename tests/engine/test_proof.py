"""The proof of shared passes, and its verdicts on disk."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import platformdirs
import pytest
import torch

from imagegen_core import Job
from imagegen_core.engine.batch_size import BatchSize
from imagegen_core.engine.verdicts import VerdictCache
from tests.engine.conftest import StartEngine, ask
from tests.engine.faults import Watched


def _fault_free(_sample: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
    return prediction


def _reads_neighbours_times_zero(sample: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
    """Add zero times the neighbour's row, as a masked product does: only NaN and infinity show it."""
    return prediction + 0 * sample.roll(1, 0)


def _treats_zeros_alike(sample: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
    """Take a shortcut if any row is zero, as a sparse kernel does."""
    is_sparse = (sample.abs().amax((1, 2, 3)) == 0).any()
    return prediction + 1e-4 * is_sparse


def _depends_on_the_place(_sample: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
    """Add to every row but the first."""
    return torch.cat([prediction[:1], prediction[1:] + 1e-4])


def _changes(passes: Iterator[int], sample: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
    """Give other bits from the third pass of several rows on, as an algorithm that is not deterministic does."""
    return prediction + 1e-4 * (len(sample) > 1 and next(passes) > 1)


@pytest.mark.parametrize(
    ("fault", "is_proven"),
    [
        (_fault_free, True),
        (_reads_neighbours_times_zero, False),
        (_treats_zeros_alike, False),
        (_depends_on_the_place, False),
        (_changes, False),
    ],
    ids=["none", "neighbours", "zeros", "place", "repeats"],
)
@pytest.mark.parametrize("states", [2, 3, 4])
def test_a_trial_finds_each_way_to_depend_on_neighbours(
    worker: Any, monkeypatch: pytest.MonkeyPatch, fault: Any, is_proven: bool, states: int
) -> None:
    forward = worker.pipe.unet.forward
    if fault is _changes:
        fault = partial(_changes, count())

    def faulty(sample: torch.Tensor, *inputs: Any, **options: Any) -> Any:
        return (fault(sample, forward(sample, *inputs, **options)[0]),)

    begun = [worker.begin(Job(req=ask(seed=seed, num_inference_steps=2))) for seed in range(states)]
    monkeypatch.setattr(worker.pipe.unet, "forward", faulty)
    assert worker.trial(begun) == is_proven
    assert [(state.steps_left, state.failure) for state in begun] == [(1, None)] * states


def test_no_number_of_rows_is_proven_twice_on_a_machine(worker: Any, start: StartEngine) -> None:
    proven: list[list[int]] = []
    for _ in range(2):
        rows: list[int] = []
        start(Watched(worker, trial=lambda states, rows=rows: rows.append(len(states)))).close()
        proven.append(rows)
    assert proven[0]
    assert not {*proven[0]} & {*proven[1]}
    assert (platformdirs.user_cache_path("imagegen") / "proofs").is_dir()


def _proven(worker: Any, group: str, folder: Path) -> set[int]:
    size = BatchSize(exact=True)
    VerdictCache(worker, folder).restore(group, size)
    return size.proven


def _kept(worker: Any, folder: Path) -> Path:
    size = BatchSize(exact=True, proven={2, 4}, refused={8})
    VerdictCache(worker, folder).keep("64x64", size)
    (file,) = folder.iterdir()
    return file


@pytest.mark.parametrize(
    "change",
    [
        {"processor": "another"},
        {"versions": {"torch": "1.0"}},
        {"attention": "xformers"},
        {"rows": 4},
        {"threads": 64},
        {"network": "0" * 12},
        {"flags": {"onednn": False}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_verdict_counts_for_an_equal_plan_only(
    worker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    _kept(worker, tmp_path)
    assert _proven(worker, "64x64", tmp_path) == {2, 4}
    assert not _proven(worker, "64x96", tmp_path)
    monkeypatch.setattr(worker, "numerics", replace(worker.numerics, **change))
    assert not _proven(worker, "64x64", tmp_path)


def test_a_verdict_of_another_version_does_not_count(
    worker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _kept(worker, tmp_path)
    monkeypatch.setattr("imagegen_core.engine.verdicts.installed_version", lambda _: "99.0")
    assert not _proven(worker, "64x64", tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"proven": ["two"], "refused": []}', '{"proven": 2}', "\x00"])
def test_a_damaged_verdict_is_ignored_and_replaced(
    worker: Any, tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = _kept(worker, tmp_path)
    file.write_text(text)
    assert not _proven(worker, "64x64", tmp_path)
    assert str(file) in caplog.text
    assert _kept(worker, tmp_path) == file
    assert _proven(worker, "64x64", tmp_path) == {2, 4}


def test_a_verdict_for_another_key_is_ignored(worker: Any, tmp_path: Path) -> None:
    file = _kept(worker, tmp_path)
    known = json.loads(file.read_text())
    known["key"]["group"] = "another"
    file.write_text(json.dumps(known))
    assert not _proven(worker, "64x64", tmp_path)


def test_an_engine_works_without_a_writable_cache(
    worker: Any, start: StartEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with caplog.at_level(logging.INFO):
        assert start(worker).submit(ask()).result(60).png
    assert not [record for record in caplog.records if record.name == "imagegen_core.engine.verdicts"]


def test_nothing_is_kept_without_a_home_folder(worker: Any) -> None:
    verdicts = VerdictCache(worker, Path("~/.cache/imagegen/proofs"))
    verdicts.keep("64x64", BatchSize(exact=True, proven={2}))
    assert not [*Path().iterdir()]


def test_the_cache_keeps_a_limited_number_of_files(
    worker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagegen_core.engine.verdicts._KEPT_FILES", 3)
    verdicts = VerdictCache(worker, tmp_path)
    for number in range(5):
        verdicts.keep(f"group {number}", BatchSize(exact=True, proven={2}))
    assert len([*tmp_path.iterdir()]) == 3
    assert _proven(worker, "group 4", tmp_path) == {2}
