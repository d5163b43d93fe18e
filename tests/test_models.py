"""What a checkpoint folder is, how a name becomes its path, and what a damaged one is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from imagegen_core import ModelLoadError, ModelNotFoundError, NamedModel, Settings
from imagegen_core.models.inspect import architecture, native_size
from imagegen_core.models.locate import checkpoints_below, locate
from imagegen_core.models.named import fallback_model
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
def test_a_folder_tells_its_family(tmp_path: Path, unet: dict[str, object], family: str) -> None:
    assert architecture(_folder(tmp_path / "model", **unet)) == family


def test_the_tiny_checkpoints_are_told_apart(sdxl_checkpoint: Path, sd15_checkpoint: Path) -> None:
    assert (architecture(sdxl_checkpoint), architecture(sd15_checkpoint)) == ("sdxl", "sd15")


def test_another_pipeline_is_told_as_unknown(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "model", pipeline="FluxPipeline", cross_attention_dim=4096)
    with pytest.raises(ModelLoadError, match="Cannot tell what .*'FluxPipeline'.*expected Stable Diffusion"):
        architecture(folder)


def test_the_native_size_is_the_samples_times_the_vaes_reduction(tmp_path: Path) -> None:
    assert native_size(_folder(tmp_path / "a", sample_size=128), default="8x8") == "1024x1024"
    assert native_size(_folder(tmp_path / "b"), default="512x512") == "512x512"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "model_index.json").unlink(), "is no checkpoint: .*model_index.json"),
        (lambda folder: shutil.rmtree(folder / "unet"), "is incomplete: unet/config.json is missing"),
        (lambda folder: (folder / "unet/config.json").write_text("{"), "Cannot read .*config.json"),
        (lambda folder: (folder / "unet/config.json").write_text("[]"), "holds no JSON object"),
        (
            lambda folder: shutil.rmtree(folder / "text_encoder_2"),
            "is incomplete: its folder text_encoder_2 is missing",
        ),
        (lambda folder: _weights(folder, "unet").unlink(), "Cannot load the checkpoint"),
        (lambda folder: _cut(_weights(folder, "unet"), 5000), "Cannot load the checkpoint"),
        (lambda folder: _cut(_weights(folder, "vae"), 4), "Cannot load the checkpoint"),
        (
            lambda folder: _weights(folder, "text_encoder").write_bytes(b"\xff" * 900),
            "Cannot load the checkpoint",
        ),
        (lambda folder: shutil.rmtree(folder / "tokenizer"), "its folder tokenizer is missing"),
    ],
)
def test_a_damaged_folder_is_one_sentence(tmp_path: Path, sdxl_checkpoint: Path, damage: object, words: str) -> None:
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


def test_a_single_file_is_told_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ModelLoadError, match=r"model\.safetensors is a single file, and only diffusers-format folders"):
        architecture(tmp_path / "model.safetensors")


def test_a_name_is_looked_for_below_the_root_then_among_the_plugins_then_as_a_path(tmp_path: Path) -> None:
    named = {"demo": NamedModel("demo", "", Path("/demo"))}
    assert locate("demo", None, named) == Path("/demo")
    (tmp_path / "root/demo").mkdir(parents=True)
    assert locate("demo", tmp_path / "root", named) == tmp_path / "root/demo"
    (tmp_path / "here").mkdir()
    assert locate("here", tmp_path / "root", named) == Path("here")
    assert locate(str(tmp_path / "here"), None, named) == tmp_path / "here"


def test_a_name_that_leads_nowhere_says_where_it_was_looked_for() -> None:
    with pytest.raises(ModelNotFoundError, match=r"No checkpoint 'x'.*MODEL_ROOT is not set.*named model \(demo\)"):
        locate("x", None, {"demo": NamedModel("demo", "", Path("/demo"))})


def test_the_checkpoints_below_a_root_are_found_at_any_depth(tmp_path: Path) -> None:
    for name in ("b", "deep/er/a"):
        _folder(tmp_path / name)
    assert checkpoints_below(tmp_path) == [tmp_path / "b", tmp_path / "deep/er/a"]
    with pytest.raises(ModelNotFoundError, match="is not a folder: correct MODEL_ROOT"):
        checkpoints_below(tmp_path / "gone")


def test_of_several_fallback_models_the_first_by_name_answers() -> None:
    models = [NamedModel(name, "", Path(name), fallback=name != "a") for name in "cba"]
    assert fallback_model(models) == models[1]
    assert fallback_model(models[2:]) is None
