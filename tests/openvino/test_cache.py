"""Networks are converted once, and kept in the user's cache folder."""

from __future__ import annotations

import copy
import gc
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from diffusers import AutoencoderKL

from imagegen_core import ModelLoadError
from imagegen_core.diffusion.weights_file import WeightsFile
from imagegen_core.styles import LoraUse
from imagegen_openvino import network_cache
from imagegen_openvino.worker import OpenVinoUNetWorker, make_worker
from imagegen_sd15 import DiffusersCudaWorker
from tests.checkpoints import save_sd15
from tests.loras import as_kohya, random_lora, save
from tests.openvino.conftest import draw, settings


def _entries() -> dict[str, Path]:
    """Return the folder of each converted network, by the network's name."""
    root = Path(os.environ["XDG_CACHE_HOME"], "imagegen", "openvino")
    found = [(json.loads(path.read_text())["origin"], path.parent) for path in root.glob("*/entry.json")]
    return {origin["network"]: folder for origin, folder in found}


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the networks that workers convert."""
    converted: list[str] = []
    for name in ("_convert_unet", "_convert_decoder"):
        convert = getattr(OpenVinoUNetWorker, name)

        def spied(self: Any, convert: Any = convert, name: str = name) -> Any:
            converted.append(name)
            return convert(self)

        monkeypatch.setattr(OpenVinoUNetWorker, name, spied)
    return converted


def test_a_second_start_reads_neither_the_unet_nor_the_decoder(
    sd15_checkpoint: Path, conversions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = draw(make_worker(0, settings(sd15_checkpoint)))
    assert conversions == ["_convert_unet", "_convert_decoder"]
    gc.collect()  # a worker in memory would share its weights
    read: list[str] = []
    plain = WeightsFile.read

    def spied(self: WeightsFile, name: str, *arguments: Any, **options: Any) -> Any:
        read.append(f"{self.path.parent.name}.{name}")
        return plain(self, name, *arguments, **options)

    monkeypatch.setattr(WeightsFile, "read", spied)
    assert draw(make_worker(0, settings(sd15_checkpoint))) == first
    assert len(conversions) == 2
    assert [name for name in read if name.startswith("text_encoder.")]
    assert not [name for name in read if name.startswith(("unet.", "vae.decoder."))]


@pytest.mark.parametrize("file", ["network.bin", "network.xml", "entry.json"])
def test_a_damaged_entry_is_made_again(
    sd15_checkpoint: Path, conversions: list[str], caplog: pytest.LogCaptureFixture, file: str
) -> None:
    first = draw(make_worker(0, settings(sd15_checkpoint)))
    damaged = _entries()["unet"] / file
    content = damaged.read_bytes()
    damaged.write_bytes(b"<" * len(content) if file == "network.xml" else content[:-1])
    assert draw(make_worker(0, settings(sd15_checkpoint))) == first
    assert "is damaged" in caplog.text
    assert conversions == ["_convert_unet", "_convert_decoder", "_convert_unet"]


def test_each_network_follows_its_own_weights(sd15_checkpoint: Path, tmp_path: Path, conversions: list[str]) -> None:
    checkpoint = shutil.copytree(sd15_checkpoint, tmp_path / "model")
    pictures = [draw(make_worker(0, settings(checkpoint)))]
    shutil.rmtree(checkpoint / "unet")
    shutil.copytree(save_sd15(tmp_path / "other", layers_per_block=2) / "unet", checkpoint / "unet")
    pictures.append(draw(make_worker(0, settings(checkpoint))))
    vae = AutoencoderKL.from_pretrained(checkpoint / "vae", local_files_only=True)
    vae.decoder.conv_out.bias.data += 0.5
    vae.save_pretrained(tmp_path / "vae")
    pictures.append(draw(make_worker(0, settings(sd15_checkpoint, vae_path=tmp_path / "vae"))))
    assert conversions == ["_convert_unet", "_convert_decoder", "_convert_unet", "_convert_decoder"]
    make_worker(0, settings(sd15_checkpoint, dtype="bf16"))
    assert conversions[4:] == ["_convert_unet", "_convert_decoder"]
    assert len({picture.png for picture in pictures}) == 3


def test_another_process_may_convert_at_the_same_time(sd15_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert = OpenVinoUNetWorker._convert_unet

    def slow(self: Any) -> Any:
        monkeypatch.setattr(OpenVinoUNetWorker, "_convert_unet", convert)
        make_worker(0, settings(sd15_checkpoint))
        return convert(self)

    monkeypatch.setattr(OpenVinoUNetWorker, "_convert_unet", slow)
    make_worker(0, settings(sd15_checkpoint))
    assert {path.name for path in _entries()["unet"].parent.iterdir()} == {
        "hashes",
        *(folder.name for folder in _entries().values()),
    }


def test_a_full_disk_is_explained(sd15_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = shutil._ntuple_diskusage(100, 99, 1)
    monkeypatch.setattr(network_cache.shutil, "disk_usage", lambda _: full)
    with pytest.raises(ModelLoadError, match=r"takes 0\.0 GB, and the disk of .* has 0\.0 GB free: make room"):
        make_worker(0, settings(sd15_checkpoint))
    assert not _entries()


def test_a_folder_that_cannot_be_written_is_explained(sd15_checkpoint: Path, tmp_path: Path) -> None:
    Path(os.environ["XDG_CACHE_HOME"]).write_text("")
    with pytest.raises(ModelLoadError, match="Cannot keep a converted network in"):
        make_worker(0, settings(sd15_checkpoint))


def test_a_deleted_folder_stops_no_lora(sd15_checkpoint: Path, tmp_path: Path) -> None:
    worker = make_worker(0, settings(sd15_checkpoint))
    file = save(
        as_kohya(random_lora(copy.deepcopy(DiffusersCudaWorker(0, settings(sd15_checkpoint)).pipe))),
        tmp_path / "lora.safetensors",
    )
    bare = draw(worker)
    shutil.rmtree(_entries()["unet"].parent)
    assert draw(worker, [LoraUse(file, 1.0, "tried")]) != bare


def test_unused_networks_leave_when_another_is_written(sd15_checkpoint: Path) -> None:
    make_worker(0, settings(sd15_checkpoint))
    old, kept = _entries()["unet"], _entries()["vae"]
    month = time.time() - 31 * 24 * 3600
    os.utime(old / "entry.json", (month, month))
    network_cache.NetworkCache()._forget_unused()
    assert not old.exists()
    assert kept.exists()
