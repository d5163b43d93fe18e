"""Descriptions of checkpoint folders, and errors of damaged folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from imagegen_core import ModelLoadError, Settings
from imagegen_core.models.inspect import architecture, describe, native_size
from imagegen_sdxl import DiffusersSDXLCudaWorker


def _folder(path: Path, pipeline: str = "StableDiffusionPipeline", **unet: object) -> Path:
    (path / "unet").mkdir(parents=True)
    (path / "vae").mkdir()
    (path / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    (path / "unet/config.json").write_text(json.dumps(unet))
    (path / "vae/config.json").write_text(json.dumps({"block_out_channels": [1, 1, 1, 1]}))
    return path


@pytest.mark.parametrize(
    ("unet", "family"),
    [
        ({"cross_attention_dim": 768}, "sd15"),
        ({"cross_attention_dim": 1024}, "sd2"),
        ({"cross_attention_dim": 2048, "addition_embed_type": "text_time"}, "sdxl"),
        ({"cross_attention_dim": 1280, "addition_embed_type": "text_time"}, "sdxl-refiner"),
        ({"cross_attention_dim": 128, "addition_embed_type": "text_time"}, "sdxl"),
        ({"cross_attention_dim": 32}, "sd15"),
    ],
)
def test_a_folders_family_is_detected(tmp_path: Path, unet: dict[str, object], family: str) -> None:
    assert architecture(_folder(tmp_path / "model", **unet)) == family


def test_the_families_of_the_tiny_checkpoints_are_detected(sdxl_checkpoint: Path, sd15_checkpoint: Path) -> None:
    assert (architecture(sdxl_checkpoint), architecture(sd15_checkpoint)) == ("sdxl", "sd15")


def test_the_native_size_is_the_sample_size_times_the_vaes_reduction(tmp_path: Path) -> None:
    assert native_size(_folder(tmp_path / "a", sample_size=128), default="8x8") == "1024x1024"
    assert native_size(_folder(tmp_path / "b"), default="512x512") == "512x512"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "model_index.json").unlink(), "is not a checkpoint: .*model_index.json"),
        (lambda folder: shutil.rmtree(folder / "unet"), "is incomplete: unet/config.json is missing"),
        (lambda folder: (folder / "unet/config.json").write_text("{"), "Cannot read .*config.json"),
        (lambda folder: (folder / "unet/config.json").write_text("[]"), "is not a JSON object"),
        (
            lambda folder: shutil.rmtree(folder / "text_encoder_2"),
            "is incomplete: its folder text_encoder_2 is missing",
        ),
        (lambda folder: _weights(folder, "unet").unlink(), "its folder unet has no weights; copy it again"),
        (
            lambda folder: _cut(_weights(folder, "unet"), 5000),
            "is not a complete safetensors file: .*; copy or",
        ),
        (lambda folder: _cut(_weights(folder, "vae"), 4), "is not a complete safetensors file: .*; copy or"),
        (
            lambda folder: _weights(folder, "text_encoder").write_bytes(b"\xff" * 900),
            "is not a complete safetensors file: .*; copy or",
        ),
        (lambda folder: shutil.rmtree(folder / "tokenizer"), "its folder tokenizer is missing"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_sentence(
    tmp_path: Path, sdxl_checkpoint: Path, damage: object, words: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(sdxl_checkpoint, folder)
    damage(folder)  # type: ignore[operator]
    with pytest.raises(ModelLoadError, match=words) as caught:
        DiffusersSDXLCudaWorker(settings=Settings(model=str(folder), device="cpu"))
    assert "\n" not in str(caught.value)


def _weights(folder: Path, component: str) -> Path:
    return next((folder / component).glob("*.safetensors"))


def _cut(file: Path, length: int) -> None:
    file.write_bytes(file.read_bytes()[:length])


def test_an_fp16_variant_loads_under_its_own_file_names(tmp_path: Path, sdxl_checkpoint: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(sdxl_checkpoint, folder)
    for file in folder.rglob("*.safetensors"):
        file.rename(file.with_suffix(".fp16.safetensors"))
    settings = Settings(model=str(folder), device="cpu", dtype="fp32")
    assert DiffusersSDXLCudaWorker(settings=settings).pipe.unet is not None


def test_a_folder_is_described_with_its_weights(sdxl_checkpoint: Path, sd15_checkpoint: Path) -> None:
    from diffusers import StableDiffusionXLPipeline

    pipe = StableDiffusionXLPipeline.from_pretrained(sdxl_checkpoint)
    networks = (pipe.unet, pipe.vae, pipe.text_encoder, pipe.text_encoder_2)
    description = describe(sdxl_checkpoint)
    assert (description.kind, description.family, description.format, description.layout) == (
        "checkpoint",
        "sdxl",
        "folder",
        "diffusers",
    )
    assert set(description.components) == {
        "scheduler",
        "text_encoder",
        "text_encoder_2",
        "tokenizer",
        "tokenizer_2",
    } | {
        "unet",
        "vae",
    }
    assert description.missing == ()
    assert (description.cross_attention_dim, description.input_channels, description.native_size) == (64, 4, "64x64")
    assert description.parameters == sum(weight.numel() for network in networks for weight in network.parameters())
    assert description.dtypes == ("float32",)
    assert description.size == sum(file.stat().st_size for file in sdxl_checkpoint.rglob("*.safetensors"))
    assert describe(sd15_checkpoint).family == "sd15"


def test_missing_components_are_named(tmp_path: Path, sdxl_checkpoint: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(sdxl_checkpoint, folder)
    shutil.rmtree(folder / "text_encoder_2")
    shutil.rmtree(folder / "vae")
    description = describe(folder)
    assert sorted(description.missing) == ["text_encoder_2", "vae"]
    assert not {"text_encoder_2", "vae"} & set(description.components)
    assert description.native_size is None


def test_duplicate_weights_count_once(tmp_path: Path, sdxl_checkpoint: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(sdxl_checkpoint, folder)
    for component in ("unet", "vae"):
        file = _weights(folder, component)
        shutil.copy(file, file.with_suffix(".fp16.safetensors"))
        (file.with_suffix(".bin")).write_bytes(b"not read")
    original = describe(sdxl_checkpoint)
    assert (describe(folder).parameters, describe(folder).size) == (original.parameters, original.size)
    for component in ("unet", "vae"):
        (folder / component / "diffusion_pytorch_model.safetensors").unlink()
    assert describe(folder).parameters == original.parameters


def test_damaged_weights_in_a_folder_are_named(tmp_path: Path, sdxl_checkpoint: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(sdxl_checkpoint, folder)
    _cut(_weights(folder, "vae"), 5000)
    with pytest.raises(
        ModelLoadError, match=r"vae/diffusion_pytorch_model.safetensors is not a complete safetensors file"
    ):
        describe(folder)
