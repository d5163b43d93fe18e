"""Each component loads from the files in its own folder, as a class of diffusers or transformers."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load, save_file

from imagegen_core import ModelLoadError, Settings
from imagegen_core.diffusion.loading import load_pipeline
from imagegen_core.models.inspect import describe
from imagegen_sdxl import DiffusersSDXLCudaWorker

NETWORKS = ("unet", "vae", "text_encoder", "text_encoder_2")


@pytest.fixture
def folder(sdxl_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sdxl_checkpoint, tmp_path / "model"))


@pytest.fixture(scope="module")
def states(sdxl_checkpoint: Path) -> dict[str, Any]:
    """The networks' weights as diffusers and transformers load them."""
    plain = diffusers.StableDiffusionXLPipeline.from_pretrained(sdxl_checkpoint, local_files_only=True)
    return {name: getattr(plain, name).state_dict() for name in NETWORKS}


def _load(folder: Path, pipeline: str = "StableDiffusionXLPipeline", **options: Any) -> Any:
    places: dict[str, Any] = {"configs": folder, "base": None, "load_file": pytest.fail}
    return load_pipeline(pipeline, folder, torch.float32, **places, **options)


def _read(file: Path) -> dict[str, torch.Tensor]:
    """Read the tensors into memory: tests overwrite the file, and a mapped file would end the process."""
    return load(file.read_bytes())


def _file(folder: Path, component: str) -> Path:
    return next((folder / component).glob("*.safetensors"))


def _rename(folder: Path, component: str, variant: str) -> None:
    file = _file(folder, component)
    file.rename(file.with_suffix(f".{variant}.safetensors"))


def _to_bin(folder: Path, component: str, variant: str = "") -> None:
    file = _file(folder, component)
    name = "diffusion_pytorch_model" if component in ("unet", "vae") else "pytorch_model"
    torch.save(_read(file), file.with_name(f"{name}{variant}.bin"))
    file.unlink()


def _shard(folder: Path, component: str, suffix: str, name: str = "{stem}-0000{number}-of-00002{suffix}") -> None:
    file = _file(folder, component)
    state = _read(file)
    names = sorted(state)
    shards = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        shard = file.with_name(name.format(stem=file.stem, number=number, suffix=suffix))
        tensors = {key: state[key] for key in part}
        save_file(tensors, shard) if suffix == ".safetensors" else torch.save(tensors, shard)
        shards |= dict.fromkeys(part, shard.name)
    file.unlink()
    file.with_name(f"{file.stem}{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))


def _other_weights(file: Path) -> dict[str, torch.Tensor]:
    return {name: torch.zeros_like(tensor) for name, tensor in _read(file).items()}


def _add_variant(folder: Path, name: str) -> None:
    """Save other weights as a variant of lower precedence."""
    file = _file(folder, "unet")
    save_file(_other_weights(file), file.with_name(name))


def _non_ema_beside_bin(folder: Path) -> None:
    other = _other_weights(_file(folder, "unet"))
    _to_bin(folder, "unet")
    save_file(other, folder / "unet/diffusion_pytorch_model.non_ema.safetensors")


def _swap_formats(folder: Path) -> None:
    unet, vae = _file(folder, "unet"), _file(folder, "vae")
    torch.save(_read(unet), unet)
    vae.rename(vae.with_suffix(".bin"))


def _old_attention(folder: Path) -> None:
    file = _file(folder, "vae")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = _read(file)
    for name in [name for name in state if ".attentions.0." in name]:
        renamed = name
        for new, former in old.items():
            renamed = renamed.replace(f".{new}.", f".{former}.")
        state[renamed] = state.pop(name)
    save_file(state, file)


def _different_variants(folder: Path) -> None:
    _rename(folder, "unet", "fp16")
    _rename(folder, "vae", "bf16")
    _to_bin(folder, "text_encoder", ".fp16")


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "a variant of some components": _different_variants,
    "bin": lambda folder: [_to_bin(folder, name) for name in NETWORKS] and None,
    "non_ema alone": lambda folder: _rename(folder, "unet", "non_ema"),
    "non_ema beside the default": lambda folder: _add_variant(folder, "diffusion_pytorch_model.non_ema.safetensors"),
    "non_ema beside bin": _non_ema_beside_bin,
    "fp16 beside the default": lambda folder: _add_variant(folder, "diffusion_pytorch_model.fp16.safetensors"),
    "shards": lambda folder: [_shard(folder, name, ".safetensors") for name in NETWORKS] and None,
    "shards of bin": lambda folder: [_shard(folder, name, ".bin") for name in NETWORKS] and None,
    "shards of a variant": lambda folder: _shard(
        folder, "unet", ".safetensors", "{stem}.fp16-0000{number}-of-00002{suffix}"
    ),
    "shards of a variant, named otherwise": lambda folder: _shard(
        folder, "unet", ".safetensors", "{stem}-0000{number}-of-00002.fp16{suffix}"
    ),
    "formats under each other's names": _swap_formats,
    "attention under diffusers' former names": _old_attention,
    "training state beside the weights": lambda folder: (
        (folder / "unet/optimizer.bin").write_bytes(b"no weights") and None
    ),
}


@pytest.mark.parametrize("change", LAYOUTS.values(), ids=LAYOUTS)
def test_weights_in_every_layout_are_found(
    folder: Path, states: dict[str, Any], change: Callable[[Path], None]
) -> None:
    change(folder)
    pipe = _load(folder)
    for name, state in states.items():
        loaded = getattr(pipe, name).state_dict()
        assert loaded.keys() == state.keys()
        assert all(torch.equal(loaded[key], tensor) for key, tensor in state.items()), name
    assert describe(folder).parameters == sum(tensor.numel() for state in states.values() for tensor in state.values())


def test_a_configured_vae_replaces_a_missing_vae(folder: Path, states: dict[str, Any]) -> None:
    vae = (folder / "vae").rename(folder.parent / "vae")
    settings = Settings(model=str(folder), vae_path=vae, device="cpu", dtype="fp32")
    worker = DiffusersSDXLCudaWorker(settings=settings)
    assert worker.native_size == "64x64"
    assert torch.equal(worker.pipe.vae.decoder.conv_in.weight, states["vae"]["decoder.conv_in.weight"])


def test_a_missing_shard_is_refused(folder: Path) -> None:
    _shard(folder, "unet", ".safetensors")
    next((folder / "unet").glob("*-00002-of-*")).unlink()
    with pytest.raises(ModelLoadError, match="is incomplete: unet has 1 of the 2 parts that .*; copy it again"):
        _load(folder)


def test_weights_in_other_formats_are_named(folder: Path) -> None:
    _file(folder, "unet").rename(folder / "unet/model.onnx")
    with pytest.raises(ModelLoadError, match="no weights; it has model.onnx, and .safetensors or .bin is read"):
        _load(folder)


def test_an_unknown_tensor_in_a_component_is_named(folder: Path) -> None:
    file = _file(folder, "unet")
    save_file({**_read(file), "control.weight": torch.ones(2)}, file)
    with pytest.raises(ModelLoadError, match="unet.*holds the tensor 'control.weight', which the networks"):
        _load(folder)


def test_weights_that_do_not_match_their_config_are_refused(folder: Path) -> None:
    config = folder / "unet/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "layers_per_block": 2}))
    with pytest.raises(ModelLoadError, match="does not match .*its unet has no tensor .*one and the same model"):
        _load(folder)


def _edit_index(folder: Path, **entries: Any) -> None:
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), **entries}))


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"unet": ["stranger", "UNet"]}, "wants its unet from the library 'stranger'"),
        ({"unet": ["stranger.inner", "UNet"]}, "from the library 'stranger.inner'"),
        ({"extra": ["stranger", "Extra"]}, "wants its extra from the library 'stranger'"),
        ({"_class_name": ["stranger", "Pipeline"]}, "asks for a pipeline of its own code"),
        ({"unet": ["diffusers", "NoSuchNetwork"]}, "names diffusers's NoSuchNetwork for its unet, .*upgrade it"),
        ({"unet": ["diffusers", "DiffusionPipeline"]}, "DiffusionPipeline for its unet, which it cannot be"),
        ({"tokenizer": ["transformers", "AutoTokenizer"]}, "AutoTokenizer for its tokenizer, which it cannot be"),
        ({"scheduler": ["diffusers", "DiffusionPipeline"]}, "DiffusionPipeline for its scheduler, which it cannot"),
        ({"unet": ["diffusers"]}, "describes its unet as .*expected a library and a class"),
        ({"text_encoder": [None, None], "text_encoder_2": [None, None]}, "names no text_encoder, which"),
        ({"unet_2": ["diffusers", "UNet2DConditionModel"]}, "its folder unet_2 is missing"),
    ],
)
def test_other_code_is_never_imported(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: dict[str, Any], words: str
) -> None:
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / "__init__.py").write_text("raise SystemExit('imported')")
    (stranger / "inner.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    _edit_index(folder, **entries)
    with pytest.raises(ModelLoadError, match=words):
        DiffusersSDXLCudaWorker(settings=Settings(model=str(folder), device="cpu"))
    assert "stranger" not in sys.modules


@pytest.mark.parametrize("library", ["stable_diffusion", "not_there"])
def test_a_folders_safety_checker_is_not_loaded(sd15_checkpoint: Path, tmp_path: Path, library: str) -> None:
    folder = Path(shutil.copytree(sd15_checkpoint, tmp_path / "model"))
    _edit_index(
        folder,
        safety_checker=[library, "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPImageProcessor"],
    )
    options = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipe = _load(folder, "StableDiffusionPipeline", **options)
    assert pipe.safety_checker is None


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "tokenizer/vocab.json").write_text("{"), "tokenizer is damaged or incomplete"),
        (lambda folder: (folder / "scheduler/scheduler_config.json").write_text("{"), "scheduler is damaged"),
    ],
)
def test_damaged_small_files_are_named(folder: Path, damage: Callable[[Path], object], words: str) -> None:
    for file in (folder / "tokenizer").glob("tokenizer.json"):
        file.unlink()
    damage(folder)
    with pytest.raises(ModelLoadError, match=f"{words}.*copy it again"):
        _load(folder)


def test_a_missing_library_is_reported_as_the_cause(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import CLIPTokenizer

    def fail(*_: object, **__: object) -> None:
        raise ImportError("CLIPTokenizer requires the tokenizers library: pip install tokenizers")

    monkeypatch.setattr(CLIPTokenizer, "from_pretrained", fail)
    with pytest.raises(ModelLoadError, match="pip install tokenizers") as caught:
        _load(folder)
    assert "again" not in str(caught.value)


def test_too_little_memory_is_reported_as_the_cause(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: 9 bytes")

    monkeypatch.setattr(torch, "empty", refuse)
    with pytest.raises(ModelLoadError, match="The memory does not take the checkpoint .*CUDA_DTYPE") as caught:
        _load(folder)
    assert "again" not in str(caught.value)


@pytest.mark.parametrize("component", ["unet", "text_encoder"])
def test_a_quantized_folder_is_refused_by_its_method(folder: Path, component: str) -> None:
    path = folder / component / "config.json"
    quantization = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": quantization}))
    with pytest.raises(ModelLoadError, match=f"{component} is quantized by 'bitsandbytes', which is not read here"):
        _load(folder)
