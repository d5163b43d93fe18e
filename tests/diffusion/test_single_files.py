"""Single-file checkpoints load without internet access and draw the pictures of their folders."""

from __future__ import annotations

import gzip
import pickle
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from imagegen_core import (
    GenerateRequest,
    Job,
    ModelLoadError,
    Settings,
)
from imagegen_core.diffusion.tokenizers import find_tokenizer
from imagegen_sd15 import DiffusersCudaWorker
from imagegen_sdxl import DiffusersSDXLCudaWorker
from tests.checkpoints import save_sd15
from tests.layouts import ldm_state, ldm_unet, ldm_vae, save_single_file

FAMILIES = {
    "sdxl": (DiffusersSDXLCudaWorker, diffusers.StableDiffusionXLPipeline),
    "sd15": (DiffusersCudaWorker, diffusers.StableDiffusionPipeline),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> tuple[Any, Any, Path]:
    """A worker class, the plain pipeline, and the checkpoint's folder."""
    worker_class, pipeline_class = FAMILIES[request.param]
    folder = request.getfixturevalue(f"{request.param}_checkpoint")
    return worker_class, pipeline_class.from_pretrained(folder, local_files_only=True), folder


def _draw(worker: Any) -> bytes:
    png, _ = worker.run_job(Job(req=GenerateRequest(prompt="a lake", seed=1, guidance_scale=3.0, size="64x64")))
    return png  # type: ignore[no-any-return]


def _load(worker_class: Any, path: Path, dtype: Any = "fp32", **settings: Any) -> Any:
    return worker_class(settings=Settings(model=str(path), device="cpu", dtype=dtype, recipe=False, **settings))


def _half(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.half() for name, tensor in state.items()}


def test_a_safetensors_file_draws_its_folders_picture(family: tuple[Any, Any, Path], tmp_path: Path) -> None:
    worker_class, pipeline, folder = family
    file = save_single_file(pipeline, tmp_path / "model.safetensors")
    assert _draw(_load(worker_class, file, base_model=folder)) == _draw(_load(worker_class, folder))


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_ckpt_file_draws_its_folders_picture(
    family: tuple[Any, Any, Path], tmp_path: Path, nested: bool, zipped: bool
) -> None:
    worker_class, pipeline, folder = family
    state = ldm_state(pipeline)
    content = {"state_dict": state, "global_step": 3, "epoch": 1} if nested else state
    torch.save(content, tmp_path / "model.ckpt", _use_new_zipfile_serialization=zipped)
    drawn = _draw(_load(worker_class, tmp_path / "model.ckpt", base_model=folder))
    assert drawn == _draw(_load(worker_class, folder))


def test_a_file_in_fp16_draws_the_picture_of_a_folder_in_fp16(family: tuple[Any, Any, Path], tmp_path: Path) -> None:
    worker_class, pipeline, folder = family
    save_file(_half(ldm_state(pipeline)), tmp_path / "half.safetensors")
    half = type(pipeline).from_pretrained(folder, local_files_only=True, dtype=torch.float16)
    half.save_pretrained(tmp_path / "half")
    drawn = _draw(_load(worker_class, tmp_path / "half.safetensors", base_model=folder))
    assert drawn == _draw(_load(worker_class, tmp_path / "half"))


@pytest.fixture(scope="module", params=FAMILIES)
def of_real_width(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    """Like `family`, with a UNet that identifies its family: only the width identifies SD1.5."""
    worker_class, pipeline_class = FAMILIES[request.param]
    if request.param == "sdxl":
        folder = request.getfixturevalue("sdxl_checkpoint")
    else:
        folder = save_sd15(tmp_path_factory.mktemp("wide") / "sd15", text_width=768)
    return worker_class, pipeline_class.from_pretrained(folder, local_files_only=True), folder


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", ""])
def test_a_unet_alone_takes_the_other_networks_from_the_base(
    of_real_width: tuple[Any, Any, Path], tmp_path: Path, prefix: str
) -> None:
    worker_class, pipeline, folder = of_real_width
    unet = {f"{prefix}{name.removeprefix('model.diffusion_model.')}": t for name, t in ldm_unet(pipeline.unet).items()}
    save_file(unet, tmp_path / "unet.safetensors")
    drawn = _draw(_load(worker_class, tmp_path / "unet.safetensors", base_model=folder))
    assert drawn == _draw(_load(worker_class, folder))


def test_a_unet_without_the_other_networks_asks_for_base_model(
    of_real_width: tuple[Any, Any, Path], tmp_path: Path
) -> None:
    worker_class, pipeline, folder = of_real_width
    configs = tmp_path / "configs"
    for file in folder.rglob("*.json"):
        target = configs / file.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    save_file(ldm_unet(pipeline.unet), tmp_path / "unet.safetensors")
    with pytest.raises(ModelLoadError, match=r"unet\.safetensors holds no (vae|text_encoder): set BASE_MODEL"):
        _load(worker_class, tmp_path / "unet.safetensors", base_model=configs)


def test_a_file_with_an_unusual_width_asks_for_configs(family: tuple[Any, Any, Path], tmp_path: Path) -> None:
    worker_class, pipeline, _ = family
    file = save_single_file(pipeline, tmp_path / "model.safetensors")
    with pytest.raises(ModelLoadError, match="set BASE_MODEL to a diffusers-format folder with its own configs"):
        _load(worker_class, file)


@pytest.mark.parametrize("naming", ["ldm", "diffusers", "folder"])
def test_a_configured_vae_replaces_the_checkpoints_vae(
    family: tuple[Any, Any, Path], tmp_path: Path, naming: str
) -> None:
    worker_class, pipeline, folder = family
    torch.manual_seed(7)
    vae = diffusers.AutoencoderKL.from_config(pipeline.vae.config)
    other = type(pipeline).from_pretrained(folder, local_files_only=True)
    other.vae = vae
    other.save_pretrained(tmp_path / "other")
    path = tmp_path / "vae.safetensors"
    if naming == "ldm":
        save_file({name.removeprefix("first_stage_model."): t for name, t in ldm_vae(vae).items()}, path)
    elif naming == "diffusers":
        save_file(vae.state_dict(), path)
    else:
        path = tmp_path / "other/vae"
    drawn = _draw(_load(worker_class, folder, vae_path=path))
    assert drawn == _draw(_load(worker_class, tmp_path / "other"))
    assert drawn != _draw(_load(worker_class, folder))


def test_a_missing_vae_is_named(family: tuple[Any, Any, Path]) -> None:
    worker_class, _, folder = family
    with pytest.raises(ModelLoadError, match="There is no VAE /nowhere: correct VAE_PATH"):
        _load(worker_class, folder, vae_path="/nowhere")


@pytest.mark.parametrize("zipped", [True, False])
def test_weights_load_from_a_file_with_training_state(
    family: tuple[Any, Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
) -> None:
    worker_class, pipeline, folder = family
    lightning = "pytorch_lightning.callbacks.model_checkpoint"
    callback = type("ModelCheckpoint", (), {"__module__": lightning})
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks", lightning):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules[lightning], "ModelCheckpoint", callback, raising=False)
    callback_state = {"best_model_score": np.float64(0.5), "best_model_path": "last.ckpt", "seen": {1, 2}}
    content = {"state_dict": ldm_state(pipeline), "callbacks": {callback: callback_state}, "epoch": 1}
    torch.save(content, tmp_path / "run.ckpt", _use_new_zipfile_serialization=zipped)
    monkeypatch.delitem(sys.modules, lightning)
    drawn = _draw(_load(worker_class, tmp_path / "run.ckpt", base_model=folder))
    assert drawn == _draw(_load(worker_class, folder))


class _Trap:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.system, ("touch trapped",)


def test_a_malicious_pickle_is_refused_by_name_and_never_runs(family: tuple[Any, Any, Path], tmp_path: Path) -> None:
    worker_class, pipeline, folder = family
    torch.save({**ldm_state(pipeline), "trap": _Trap()}, tmp_path / "trap.ckpt", pickle_module=pickle)
    with pytest.raises(ModelLoadError, match=r"trap\.ckpt.*(posix|os)\.system"):
        _load(worker_class, tmp_path / "trap.ckpt", base_model=folder)
    assert not Path("trapped").exists()


def test_a_v_prediction_file_is_recognized_by_its_keys(sdxl_checkpoint: Path, tmp_path: Path) -> None:
    pipeline = diffusers.StableDiffusionXLPipeline.from_pretrained(sdxl_checkpoint, local_files_only=True)
    keys = {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}
    save_file({**ldm_state(pipeline), **keys}, tmp_path / "v.safetensors")
    worker = _load(DiffusersSDXLCudaWorker, tmp_path / "v.safetensors", base_model=sdxl_checkpoint)
    assert worker.pipe.scheduler.config.prediction_type == "v_prediction"
    assert worker.pipe.scheduler.config.rescale_betas_zero_snr is True


def test_clips_merges_are_found_in_an_installed_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "open_clip"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('never imported')")
    merges = "#version: 0.2\nl a\nla k\nlak e</w>\n"
    (package / "bpe_simple_vocab_16e6.txt.gz").write_bytes(gzip.compress(merges.encode()))
    monkeypatch.syspath_prepend(tmp_path)
    tokenizer = find_tokenizer(None, "tokenizer_2", pad_token="!")
    assert "open_clip" not in sys.modules
    assert tokenizer.tokenize("a lake") == ["a</w>", "lake</w>"]
    assert tokenizer.pad_token == "!"
    assert tokenizer("lake").input_ids[0] == tokenizer.bos_token_id


def test_the_error_for_missing_merges_names_all_four_places() -> None:
    with pytest.raises(
        ModelLoadError, match="BASE_MODEL has none, the hub's local cache .*open_clip nor clip .*the hub"
    ):
        find_tokenizer(None, "tokenizer", pad_token="!")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda base: (base / "scheduler/scheduler_config.json").write_text("{"),
            "scheduler is damaged .*copy it again",
        ),
        (lambda base: (base / "unet/config.json").unlink(), "base/unet is incomplete: config.json is missing"),
        (
            lambda base: (base / "model_index.json").write_text('{"_class_name": "A"}'),
            "names no scheduler: set BASE_MODEL",
        ),
    ],
)
def test_a_damaged_base_is_refused(family: tuple[Any, Any, Path], tmp_path: Path, damage: Any, words: str) -> None:
    worker_class, pipeline, folder = family
    base = Path(shutil.copytree(folder, tmp_path / "base"))
    damage(base)
    with pytest.raises(ModelLoadError, match=words):
        _load(worker_class, save_single_file(pipeline, tmp_path / "model.safetensors"), base_model=base)


def test_a_base_of_another_family_is_refused(sdxl_checkpoint: Path, sd15_checkpoint: Path, tmp_path: Path) -> None:
    pipeline = diffusers.StableDiffusionXLPipeline.from_pretrained(sdxl_checkpoint, local_files_only=True)
    file = save_single_file(pipeline, tmp_path / "model.safetensors")
    with pytest.raises(
        ModelLoadError, match="holds a text_encoder_2, which .*BASE_MODEL to a folder of the file's own"
    ):
        _load(DiffusersSDXLCudaWorker, file, base_model=sd15_checkpoint)
