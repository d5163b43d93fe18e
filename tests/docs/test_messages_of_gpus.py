"""The guides' quotes, each compared with a provoked message: CUDA graphs and torch's switches."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from imagegen_core import Settings, SettingsError
from imagegen_core.diffusion.cuda_graphs import graph_cache
from imagegen_core.diffusion.graph_cache import GraphCache
from imagegen_core.diffusion.switches import Switches
from imagegen_core.memory_plan import MemoryPlan
from tests.diffusion.tape import TapeRecorder
from tests.docs.conftest import AssertQuoted


class _Broken(TapeRecorder):
    def record(self, run: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")


class _Wrong(TapeRecorder):
    def record(self, run: Any) -> Any:
        _, outputs = super().record(run)
        return lambda: None, outputs


def test_cuda_graphs(assert_quoted: AssertQuoted, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings.load(environ={"IMAGEGEN_CUDA_GRAPHS": "1"})
    with pytest.raises(SettingsError) as caught:
        graph_cache(torch.nn.Linear(1, 1), torch.device("cpu"), settings, MemoryPlan(10**9, 10**9))
    for recorder in (_Broken(), _Wrong()):
        cache = GraphCache(lambda tensor: (tensor * 2,), recorder)
        for _ in range(2):
            cache.call((), torch.ones(1))
    assert_quoted("CUDA graphs", caught.value, *caplog.messages)


def test_changed_switches(
    assert_quoted: AssertQuoted, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    switches = Switches(torch.device("cuda"), "exact")
    switches.hold()
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    switches.hold()
    torch.backends.cuda.enable_cudnn_sdp(True)
    assert_quoted("Changed switches", *caplog.messages)
