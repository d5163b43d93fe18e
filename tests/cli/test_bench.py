"""``imagegen bench`` and ``generate --count``: the engine on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from imagegen_core.cli import main


@pytest.fixture(autouse=True)
def _tiny(sdxl_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MODEL": str(sdxl_checkpoint), "CUDA_DEVICE": "cpu", "CUDA_DTYPE": "fp32"}.items():
        monkeypatch.setenv(name, value)


def _run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    return int(exit_info.value.code or 0), *capfd.readouterr()


def test_bench_prints_a_row_for_each_number_of_requests(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = _run(capfd, "bench", "--seconds", "0.1", "--steps", "2")
    assert code == 0
    rows = [line.split("\t") for line in out.splitlines()]
    assert [row[0] for row in rows] == ["1", "2", "4", "8", "16"]
    assert all(float(row[1]) > 0 and float(row[2]) <= float(row[3]) for row in rows)
    assert "Rows of a forward pass that pay here: 64x64, 77 tokens: " in err


def test_bench_prints_json(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _run(capfd, "bench", "--seconds", "0.1", "--size", "64x96", "--json")
    report = json.loads(out)
    assert code == 0
    assert [row["clients"] for row in report["measured"]] == [1, 2, 4, 8, 16]
    assert report["engine"]["failed"] == 0
    assert {group["kind"] for group in report["engine"]["groups"]} == {"64x64, 77 tokens", "64x96, 77 tokens"}


def test_the_configuration_chooses_fast_batching(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGEGEN_BATCHING", "fast")
    code, out, _ = _run(capfd, "bench", "--seconds", "0.1", "--json")
    assert code == 0
    assert json.loads(out)["engine"]["batching"] == "fast"


def test_bench_refuses_a_wrong_size_before_it_loads(capfd: pytest.CaptureFixture[str]) -> None:
    code, _, err = _run(capfd, "bench", "--size", "12by7")
    assert (code, err.count("\n")) == (2, 1)
    assert "Invalid size '12by7'" in err


def test_pictures_drawn_together_equal_pictures_drawn_alone(capfd: pytest.CaptureFixture[str]) -> None:
    assert _run(capfd, "generate", "a lake", "--seed", "5", "--count", "4", "-o", "all.png")[0] == 0
    for number in range(4):
        assert _run(capfd, "generate", "a lake", "--seed", str(5 + number), "-o", "one.png")[0] == 0
        assert Path(f"all-{number + 1}.png").read_bytes() == Path("one.png").read_bytes()
