"""The guides' quotes, each compared with a provoked message: the messages that need no worker."""

from __future__ import annotations

import re
import socket
import sys
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from PIL import Image

from imagegen_core import GenerateRequest, ImagegenError, Registry, Settings, load_worker
from imagegen_core.cli import main
from imagegen_core.diffusion.device import choose_device
from imagegen_core.diffusion.scheduling import Schedulers
from imagegen_core.diffusion.tokenizers import find_tokenizer
from imagegen_core.hosting.engine_loader import placements
from imagegen_core.models.inspect import architecture
from imagegen_core.models.locate import checkpoints_below, locate
from imagegen_core.request import ResolvedRequest
from imagegen_core.resolution.backends import select_backend
from imagegen_core.resolution.checkpoints import resolve_checkpoint
from imagegen_core.resolution.style_catalog import StyleCatalog
from imagegen_core.samplers import SAMPLERS, find_sampler
from imagegen_demo.plugin import imagegen_models
from tests.docs.conftest import AssertQuoted
from tests.docs.quotes import quotes
from tests.plugins.installed import Installer

SDXL_WIDTH = 2048


class _Trap:
    def __reduce__(self) -> Any:
        return __import__("os").system, ("touch trapped",)


def _checkpoint(backend: str, **settings: Any) -> Path:
    """Return the checkpoint that a backend would load."""
    registry = Registry.discover()
    return resolve_checkpoint(Settings.load(**settings), registry.backend(backend), registry)


def _select() -> object:
    return select_backend(Registry.discover(), Settings.load())


def _error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the error message of the command line."""
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == 2
    return capsys.readouterr().err.removeprefix("Error: ")


def test_every_quote_is_provoked() -> None:
    sources = [path.read_text() for path in Path(__file__).parent.glob("test_messages*.py")]
    headings = [heading for source in sources for heading in re.findall(r'assert_quoted\(\s*"([^"]+)"', source)]
    assert sorted(headings) == sorted(quotes())


def test_missing_checkpoints(
    assert_quoted: AssertQuoted, tmp_path: Path, install: Installer, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ImagegenError) as caught:
        locate("my-sdxl.safetensors", tmp_path / "models", {"demo": None})  # type: ignore[dict-item]
    assert_quoted("A missing checkpoint", caught.value)
    with pytest.raises(ImagegenError) as caught:
        checkpoints_below(tmp_path / "models")
    assert_quoted("A missing model root", caught.value)
    install.backend("sd15", architectures=("sd15",))
    with pytest.raises(ImagegenError) as caught:
        _checkpoint("sd15")
    install.backend("sdxl", architectures=("sdxl",))
    registry = Registry.discover()
    registry.models = {model.name: model for model in imagegen_models()}
    resolve_checkpoint(Settings(), registry.backend("sdxl"), registry)
    assert_quoted("No checkpoint is configured", caught.value, caplog.messages[-1])


def test_checkpoints_of_another_family(assert_quoted: AssertQuoted, models: Path) -> None:
    with pytest.raises(ImagegenError) as caught:
        _checkpoint("sd15", model="my-sdxl.safetensors", model_root=models)
    assert_quoted("The wrong pipeline", caught.value)
    assert_quoted("An SDXL checkpoint for the SD1.5 backend", caught.value)
    with pytest.raises(ImagegenError) as caught:
        _checkpoint("sdxl", model="my-sd15", model_root=models)
    assert_quoted("An SD1.5 checkpoint under USE_SDXL", caught.value)


def test_missing_backends(
    assert_quoted: AssertQuoted, models: Path, install: Installer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ImagegenError) as caught:
        _select()
    assert_quoted("No backend is installed", caught.value)
    install.backend("sd15", architectures=("sd15",))
    monkeypatch.setenv("MODEL", str(models / "my-sdxl.safetensors"))
    with pytest.raises(ImagegenError) as caught:
        _select()
    flux = models / "flux"
    flux.mkdir()
    (flux / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    monkeypatch.setenv("MODEL", str(flux))
    with pytest.raises(ImagegenError) as caught_folder:
        _select()
    assert_quoted("No backend for the checkpoint", caught.value, caught_folder.value)
    assert_quoted("imagegen-sdxl is not installed", caught.value)


def test_files_other_than_checkpoints(assert_quoted: AssertQuoted, models: Path) -> None:
    with pytest.raises(ImagegenError) as caught:
        architecture(models / "papercut.safetensors")
    assert_quoted("A LoRA instead of a checkpoint", caught.value)
    file = models / "my-sdxl.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ImagegenError) as caught:
        architecture(file)
    assert_quoted("A damaged file", caught.value)
    file.write_text("<!DOCTYPE html><title>Log in</title>")
    with pytest.raises(ImagegenError) as caught:
        architecture(file)
    assert_quoted("A saved web page", caught.value)
    torch.save({"state_dict": {"trap": _Trap()}}, models / "my-sd15.ckpt")
    with pytest.raises(ImagegenError) as caught:
        architecture(models / "my-sd15.ckpt")
    assert_quoted("A dangerous pickle", caught.value)


def test_no_tokenizer(assert_quoted: AssertQuoted) -> None:
    with pytest.raises(ImagegenError) as caught:
        find_tokenizer(None, "tokenizer", pad_token="!")
    assert_quoted("No tokenizer offline", caught.value)


def test_styles(assert_quoted: AssertQuoted, models: Path, tmp_path: Path) -> None:
    settings = Settings.load(environ={"LORA_ROOT": str(models / "loras")})
    with pytest.raises(ImagegenError) as caught:
        StyleCatalog(settings, Registry.discover(), SDXL_WIDTH)
    assert_quoted("A missing folder of styles", caught.value)
    with pytest.raises(ImagegenError) as caught:
        StyleCatalog(Settings(), Registry.discover(), None).usable("papercut")
    assert_quoted("An unknown style", caught.value)
    with pytest.raises(ImagegenError) as caught:
        StyleCatalog(Settings(lora_root=models), Registry.discover(), SDXL_WIDTH).usable("papercut")
    assert_quoted("A style that does not fit", caught.value)
    assert_quoted("A LoRA made for SD1.5", caught.value)


def test_devices(
    assert_quoted: AssertQuoted, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    choose_device(Settings())
    assert_quoted("It draws on the CPU", *caplog.messages)
    with pytest.raises(ImagegenError) as caught:
        choose_device(Settings.load(environ={"CUDA_DEVICE": "cuda:0"}))
    assert_quoted("A missing device", caught.value)
    with pytest.raises(ImagegenError) as caught:
        placements(Settings.load(environ={"CUDA_DEVICE": "cuda:0,cuda:1", "NUM_WORKERS": "1"}))
    assert_quoted("Fewer copies of the model than devices", caught.value)
    with pytest.raises(ImagegenError) as caught:
        Settings.load(environ={"CUDA_DTYPE": "fp8"})
    assert_quoted("An unknown precision", caught.value)


def test_requests(assert_quoted: AssertQuoted) -> None:
    with pytest.raises(ImagegenError) as caught:
        ResolvedRequest.of(GenerateRequest(prompt="", size="1023x1023"), native_size="8x8")
    assert_quoted("A wrong size", caught.value)
    with pytest.raises(ImagegenError) as caught:
        find_sampler("Oiler", SAMPLERS)
    assert_quoted("An unknown sampler", caught.value)


def test_samplers(assert_quoted: AssertQuoted) -> None:
    schedulers = Schedulers(diffusers.EulerDiscreteScheduler(), SAMPLERS, None)
    with pytest.raises(ImagegenError) as schedule:
        schedulers.make("DDIM", 20, torch.device("cpu"), "Karras")
    with pytest.raises(ImagegenError) as steps:
        schedulers.make("LCM", 60, torch.device("cpu"))
    assert_quoted("A wrong schedule, or too many steps", schedule.value, steps.value)
    own = diffusers.EulerDiscreteScheduler(rescale_betas_zero_snr=True)
    with pytest.raises(ImagegenError) as caught:
        Schedulers(own, SAMPLERS, None).make("Heun", 20, torch.device("cpu"))
    assert_quoted("A sampler without support for the checkpoint", caught.value)


def test_a_picture_without_a_recipe(assert_quoted: AssertQuoted, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8)).save("photo.png")
    assert_quoted("No recipe to replay", _error_of(capsys, "replay", "photo.png"))


def test_plugins(
    assert_quoted: AssertQuoted, install: Installer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install.add("mine", "import not_there")
    with pytest.raises(SystemExit) as exit_info:
        main(["plugins", "doctor"])
    assert exit_info.value.code == 1
    assert_quoted("A plugin is broken", capsys.readouterr().out)
    install.backend("sdxl")
    monkeypatch.setenv("IMAGEGEN_PLUGINS", "mine")
    with pytest.raises(ImagegenError) as caught:
        load_worker("sdxl")
    assert_quoted("A plugin is disabled", caught.value)


def test_settings(assert_quoted: AssertQuoted) -> None:
    Path("imagegen.toml").write_text('mdoel = "demo"\n')
    with pytest.raises(ImagegenError) as caught:
        Settings.load(environ={})
    assert_quoted("An unknown setting", caught.value)
    with pytest.raises(ImagegenError) as caught:
        Settings.load(environ={"IMAGEGEN_CONFIG": "gone.toml"})
    assert_quoted("A missing file", caught.value)


def test_a_server_that_does_not_start(
    assert_quoted: AssertQuoted, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_quoted("Other addresses need keys", _error_of(capsys, "serve", "--host", "0.0.0.0"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        message = _error_of(capsys, "serve", "--port", str(port))
    assert_quoted("The port is taken", message.replace(str(port), "4200"))
    monkeypatch.delitem(sys.modules, "imagegen_core.server.run", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert_quoted("The server is not installed", _error_of(capsys, "serve"))


def test_a_library_that_does_not_fit(
    assert_quoted: AssertQuoted, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in {
        "torchvision/__init__.py": "from PIL import PILLOW_VERSION",
        "torchvision-0.2.2.dist-info/METADATA": "Name: torchvision\nVersion: 0.2.2\n",
        "torchvision-0.2.2.dist-info/top_level.txt": "torchvision",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setenv("SDXL_MODEL", str(models / "my-sdxl.safetensors"))
    with pytest.raises(ImagegenError) as caught:
        load_worker("sdxl")
    assert_quoted("A library does not fit the others", caught.value)
    assert "fails in torchvision 0.2.2: ImportError: cannot import name 'PILLOW_VERSION'" in str(caught.value)
