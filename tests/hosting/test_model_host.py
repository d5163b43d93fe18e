"""Models of one process, with the toy backend."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from imagegen_core import GenerateRequest, Registry, Settings
from imagegen_core.errors import SettingsError
from imagegen_core.hosting.model_host import LoadFailedError, LocalModelHost
from imagegen_core.modes import Mode
from imagegen_core.settings.tables import ModeSettings
from imagegen_core.styles import LoraUse

MESSAGE = "Mode styled has LoRAs, but ToyWorker does not support LoRAs: remove them from the mode"
REQUEST = GenerateRequest(prompt="clouds", size="64x64", num_inference_steps=1)


@pytest.fixture
def host() -> Iterator[LocalModelHost]:
    host = LocalModelHost(Settings.load(environ={}), Registry.discover())
    yield host
    host.close(0)


def _mode(name: str, *loras: LoraUse) -> Mode:
    return Mode(name, Settings.load(environ={}, backend="toy"), ModeSettings(), loras)


def test_a_mode_with_unsupported_loras_does_not_stop_other_modes_of_its_model(host: LocalModelHost) -> None:
    plain, styled = _mode("plain"), _mode("styled", LoraUse(Path("a.safetensors"), 1.0, "a"))
    with pytest.raises(LoadFailedError, match=MESSAGE):
        host.load(styled)
    host.load(plain)
    assert host.submit(plain, REQUEST, None).result(60).size == (64, 64)
    with pytest.raises(SettingsError, match=MESSAGE):
        host.submit(styled, REQUEST, None)
    assert host.submit(plain, REQUEST, None).result(60).size == (64, 64)
