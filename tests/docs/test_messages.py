"""Every message that the guides quote is provoked for real, and is what they quote: here what takes no worker."""

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
from tests.docs.conftest import Said
from tests.docs.quotes import quotes
from tests.plugins.installed import Installer

SDXL_WIDTH = 2048


class _Trap:
    def __reduce__(self) -> Any:
        return __import__("os").system, ("touch trapped",)


def _checkpoint(backend: str, **settings: Any) -> Path:
    """What a backend would load."""
    registry = Registry.discover()
    return resolve_checkpoint(Settings.load(**settings), registry.backend(backend), registry)


def _selected() -> object:
    return select_backend(Registry.discover(), Settings.load())


def _error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command line says is wrong."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err.removeprefix("Error: ")


def test_every_quote_is_provoked() -> None:
    sources = [path.read_text() for path in Path(__file__).parent.glob("test_messages*.py")]
    asked = [heading for source in sources for heading in re.findall(r'said\(\s*"([^"]+)"', source)]
    assert sorted(asked) == sorted(quotes())


def test_checkpoints_that_are_not_there(
    said: Said, tmp_path: Path, install: Installer, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ImagegenError) as caught:
        locate("my-sdxl.safetensors", tmp_path / "models", {"demo": None})  # type: ignore[dict-item]
    said("A missing checkpoint", caught.value)
    with pytest.raises(ImagegenError) as caught:
        checkpoints_below(tmp_path / "models")
    said("A missing model root", caught.value)
    install.backend("sd15", architectures=("sd15",))
    with pytest.raises(ImagegenError) as caught:
        _checkpoint("sd15")
    install.backend("sdxl", architectures=("sdxl",))
    registry = Registry.discover()
    registry.models = {model.name: model for model in imagegen_models()}
    resolve_checkpoint(Settings(), registry.backend("sdxl"), registry)
    said("No checkpoint is configured", caught.value, caplog.messages[-1])


def test_checkpoints_of_another_family(said: Said, models: Path) -> None:
    with pytest.raises(ImagegenError) as caught:
        _checkpoint("sd15", model="my-sdxl.safetensors", model_root=models)
    said("The wrong pipeline", caught.value)
    said("An SDXL checkpoint for the SD1.5 backend", caught.value)
    with pytest.raises(ImagegenError) as caught:
        _checkpoint("sdxl", model="my-sd15", model_root=models)
    said("An SD1.5 checkpoint under USE_SDXL", caught.value)


def test_backends_that_are_not_there_or_too_many(
    said: Said, models: Path, install: Installer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ImagegenError) as caught:
        _selected()
    said("No backend is installed", caught.value)
    install.backend("sd15", architectures=("sd15",))
    monkeypatch.setenv("MODEL", str(models / "my-sdxl.safetensors"))
    with pytest.raises(ImagegenError) as caught:
        _selected()
    said("No backend for the checkpoint", caught.value)
    said("imagegen-sdxl is not installed", caught.value)
    install.backend("sdxl", architectures=("sdxl",))
    monkeypatch.delenv("MODEL")
    monkeypatch.setenv("SD15_MODEL", "a")
    monkeypatch.setenv("SDXL_MODEL", "b")
    with pytest.raises(ImagegenError) as caught:
        _selected()
    said("Several backends fit", caught.value)
    said("A checkpoint for each, without a choice", caught.value)


def test_files_that_are_no_checkpoints(said: Said, models: Path) -> None:
    with pytest.raises(ImagegenError) as caught:
        architecture(models / "papercut.safetensors")
    said("A LoRA instead of a checkpoint", caught.value)
    file = models / "my-sdxl.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ImagegenError) as caught:
        architecture(file)
    said("A damaged file", caught.value)
    file.write_text("<!DOCTYPE html><title>Log in</title>")
    with pytest.raises(ImagegenError) as caught:
        architecture(file)
    said("A saved web page", caught.value)
    torch.save({"state_dict": {"trap": _Trap()}}, models / "my-sd15.ckpt")
    with pytest.raises(ImagegenError) as caught:
        architecture(models / "my-sd15.ckpt")
    said("A dangerous pickle", caught.value)


def test_no_tokenizer(said: Said) -> None:
    with pytest.raises(ImagegenError) as caught:
        find_tokenizer(None, "tokenizer", pad_token="!")
    said("No tokenizer offline", caught.value)


def test_styles(said: Said, models: Path, tmp_path: Path) -> None:
    settings = Settings.load(environ={"LORA_ROOT": str(models / "loras")})
    with pytest.raises(ImagegenError) as caught:
        StyleCatalog(settings, Registry.discover(), SDXL_WIDTH)
    said("A missing folder of styles", caught.value)
    with pytest.raises(ImagegenError) as caught:
        StyleCatalog(Settings(), Registry.discover(), None).usable("papercut")
    said("An unknown style", caught.value)
    with pytest.raises(ImagegenError) as caught:
        StyleCatalog(Settings(lora_root=models), Registry.discover(), SDXL_WIDTH).usable("papercut")
    said("A style that does not fit", caught.value)
    said("A LoRA made for SD1.5", caught.value)


def test_devices(said: Said, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    choose_device(Settings())
    said("It draws on the CPU", *caplog.messages)
    with pytest.raises(ImagegenError) as caught:
        choose_device(Settings.load(environ={"CUDA_DEVICE": "cuda:0"}))
    said("A missing device", caught.value)
    with pytest.raises(ImagegenError) as caught:
        placements(Settings.load(environ={"CUDA_DEVICE": "cuda:0,cuda:1", "NUM_WORKERS": "1"}))
    said("Fewer copies of the model than devices", caught.value)
    with pytest.raises(ImagegenError) as caught:
        Settings.load(environ={"CUDA_DTYPE": "fp8"})
    said("An unknown precision", caught.value)


def test_requests(said: Said) -> None:
    with pytest.raises(ImagegenError) as caught:
        ResolvedRequest.of(GenerateRequest(prompt="", size="1023x1023"), native_size="8x8")
    said("A wrong size", caught.value)
    with pytest.raises(ImagegenError) as caught:
        find_sampler("Oiler", SAMPLERS)
    said("An unknown sampler", caught.value)


def test_samplers(said: Said) -> None:
    schedulers = Schedulers(diffusers.EulerDiscreteScheduler(), SAMPLERS, None)
    with pytest.raises(ImagegenError) as schedule:
        schedulers.make("DDIM", 20, torch.device("cpu"), "Karras")
    with pytest.raises(ImagegenError) as steps:
        schedulers.make("LCM", 60, torch.device("cpu"))
    said("A wrong schedule, or too many steps", schedule.value, steps.value)
    own = diffusers.EulerDiscreteScheduler(rescale_betas_zero_snr=True)
    with pytest.raises(ImagegenError) as caught:
        Schedulers(own, SAMPLERS, None).make("Heun", 20, torch.device("cpu"))
    said("A sampler without support for the checkpoint", caught.value)


def test_a_picture_without_a_recipe(said: Said, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8)).save("photo.png")
    said("No recipe to replay", _error_of(capsys, "replay", "photo.png"))


def test_plugins(
    said: Said, install: Installer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install.add("mine", "import not_there")
    with pytest.raises(SystemExit) as ended:
        main(["plugins", "doctor"])
    assert ended.value.code == 1
    said("A plugin is broken", capsys.readouterr().out)
    install.backend("sdxl")
    monkeypatch.setenv("IMAGEGEN_PLUGINS", "mine")
    with pytest.raises(ImagegenError) as caught:
        load_worker("sdxl")
    said("A plugin is disabled", caught.value)


def test_settings(said: Said) -> None:
    Path("imagegen.toml").write_text('mdoel = "demo"\n')
    with pytest.raises(ImagegenError) as caught:
        Settings.load(environ={})
    said("An unknown setting", caught.value)
    with pytest.raises(ImagegenError) as caught:
        Settings.load(environ={"IMAGEGEN_CONFIG": "gone.toml"})
    said("A missing file", caught.value)


def test_a_server_that_does_not_start(
    said: Said, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said("Other addresses need keys", _error_of(capsys, "serve", "--host", "0.0.0.0"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = _error_of(capsys, "serve", "--port", str(port))
    said("The port is taken", message.replace(str(port), "4200"))
    monkeypatch.delitem(sys.modules, "imagegen_core.server.run", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    said("The server is not installed", _error_of(capsys, "serve"))


def test_a_library_that_does_not_fit(said: Said, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    said("A library does not fit the others", caught.value)
    assert "fails in torchvision 0.2.2: ImportError: cannot import name 'PILLOW_VERSION'" in str(caught.value)
