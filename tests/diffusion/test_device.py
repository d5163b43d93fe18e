"""A worker's device and precision, configured or chosen automatically."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from imagegen_core import Settings, SettingsError
from imagegen_core.diffusion import OnDevice
from imagegen_core.diffusion.device import choose_device, choose_dtype
from imagegen_core.diffusion.memory import device_memory


def _machine(monkeypatch: pytest.MonkeyPatch, *, cuda: int = 0, mps: bool = False) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(("cuda", "mps", "expected"), [(2, True, "cuda:0"), (0, True, "mps"), (0, False, "cpu")])
def test_the_best_available_device_is_chosen(
    monkeypatch: pytest.MonkeyPatch, cuda: int, mps: bool, expected: str
) -> None:
    _machine(monkeypatch, cuda=cuda, mps=mps)
    assert str(choose_device(Settings())) == expected


def test_the_fallback_to_the_cpu_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _machine(monkeypatch)
    with caplog.at_level(logging.WARNING):
        choose_device(Settings())
    assert caplog.messages == ["No GPU found: drawing on the CPU"]


@pytest.mark.parametrize("device", ["cuda:0", "cuda", "cuda:7", "mps", "gpu", ""])
def test_an_unavailable_device_is_refused(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    _machine(monkeypatch)
    with pytest.raises(SettingsError) as caught:
        choose_device(Settings.load(environ={}, device=device))
    assert f"device={device}" in str(caught.value)


def test_the_error_names_the_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    _machine(monkeypatch)
    with pytest.raises(SettingsError, match="^CUDA_DEVICE=cuda:0, but PyTorch .* sees 0 CUDA devices: install"):
        choose_device(Settings.load(environ={"CUDA_DEVICE": "cuda:0"}))


def test_the_first_device_is_chosen_and_an_unavailable_device_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _machine(monkeypatch, cuda=1)
    settings = Settings.load(environ={"CUDA_DEVICE": "cuda:0,cuda:1"})
    assert choose_device(settings) == torch.device("cuda:0")
    with pytest.raises(SettingsError, match="^CUDA_DEVICE=cuda:1, but PyTorch .* sees 1 CUDA devices"):
        choose_device(settings.for_device(1))


def test_gpus_with_the_same_name_are_distinguished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1, 2))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "H100")
    for count, names in ((1, {"H100"}), (2, {"H100 (cuda:0)", "H100 (cuda:1)"})):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert {device_memory(torch.device("cuda", index)).device for index in range(count)} == names
    assert device_memory(torch.device("cuda")).device == "H100 (cuda:0)"


def test_a_step_waits_for_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[object] = []
    monkeypatch.setattr(torch.cuda, "synchronize", devices.append)
    OnDevice.synchronize(cast("Any", SimpleNamespace(device=torch.device("cuda:1"))))
    assert devices == [torch.device("cuda:1")]


@pytest.mark.parametrize(
    ("device", "capabilities", "expected"),
    [
        ("cuda:0", {}, torch.float16),
        ("mps", {}, torch.float16),
        ("cpu", {"avx512_bf16": True}, torch.bfloat16),
        ("cpu", {"amx_bf16": True}, torch.bfloat16),
        ("cpu", {"avx2": True, "avx512_bf16": False}, torch.float32),
    ],
)
def test_the_precision_suits_the_device(
    monkeypatch: pytest.MonkeyPatch, device: str, capabilities: dict[str, bool], expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert choose_dtype(Settings(), torch.device(device)) is expected


@pytest.mark.parametrize(
    ("name", "expected"), [("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp32", torch.float32)]
)
def test_a_configured_precision_is_used(name: str, expected: torch.dtype) -> None:
    assert choose_dtype(Settings.load(environ={"CUDA_DTYPE": name}), torch.device("cpu")) is expected
