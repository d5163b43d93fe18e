"""Single files of Stable Diffusion 3 and FLUX.1 draw the folder's picture, with and without text encoders."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from safetensors.torch import save_file

from imagegen_core import ModelLoadError, Settings, generate
from imagegen_core.diffusion import file_components
from imagegen_core.models.inspect import describe
from imagegen_flux import FluxWorker
from imagegen_sd3 import StableDiffusion3Worker
from tests.checkpoints import save_flux, save_sd3, tiny_t5_tokenizer, tiny_tokenizer
from tests.layouts import State, original_flux, original_sd3

# The heads of a file without normalized queries have 64 channels.
WIDE = {"attention_head_dim": 64, "num_attention_heads": 1, "qk_norm": None}
AXES = {"attention_head_dim": 32, "num_attention_heads": 1, "axes_dims_rope": (4, 14, 14)}
FAMILIES: dict[str, Any] = {
    "sd3": (save_sd3, original_sd3, StableDiffusion3Worker, diffusers.StableDiffusion3Pipeline, WIDE),
    "sd3.5": (
        save_sd3,
        original_sd3,
        StableDiffusion3Worker,
        diffusers.StableDiffusion3Pipeline,
        {"dual_attention_layers": (0,)},
    ),
    "flux-dev": (save_flux, original_flux, FluxWorker, diffusers.FluxPipeline, AXES),
    "flux-schnell": (save_flux, original_flux, FluxWorker, diffusers.FluxPipeline, {**AXES, "guidance_embeds": False}),
}


class Checkpoint:
    """A tiny checkpoint as a folder, its tensors under a file's names, and its worker's class."""

    def __init__(self, family: str, folder: Path) -> None:
        save, original, self.worker_class, pipeline_class, changes = FAMILIES[family]
        self.folder: Path = save(folder / "base", like_released=True, **changes)
        self.state: State = original(pipeline_class.from_pretrained(self.folder))

    @cached_property
    def expected(self) -> bytes:
        """The pixels of the folder's picture."""
        return self.draw(self.folder)

    def draw(self, path: Path, **settings: Any) -> bytes:
        worker = self.worker_class(settings=Settings(model=str(path), device="cpu", dtype="fp32", **settings))
        return generate("a lake", worker=worker, seed=3, size="64x64", guidance_scale=3.0).image.tobytes()


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return Checkpoint(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(autouse=True)
def _tokenizers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Replace the tokenizers, absent from a single file, with tokenizers of single letters."""

    def find(base: Path | None, name: str, pad_token: str) -> Any:
        tokenizer = tiny_tokenizer(tmp_path / f"found-{name}")
        tokenizer.pad_token = pad_token
        return tokenizer

    monkeypatch.setattr(file_components, "find_tokenizer", find)
    monkeypatch.setattr(file_components, "find_t5_tokenizer", lambda base, name: tiny_t5_tokenizer())


@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_a_whole_file_draws_the_folders_picture(checkpoint: Checkpoint, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"whole.{suffix}"
    if suffix == "ckpt":
        torch.save({"state_dict": checkpoint.state}, path)
    else:
        save_file(checkpoint.state, path)
    assert checkpoint.draw(path) == checkpoint.expected


def test_rows_of_a_scaled_tensor_keep_their_scales(checkpoint: Checkpoint, tmp_path: Path) -> None:
    name = next(name for name in checkpoint.state if name.endswith("attn.qkv.weight"))
    scale = torch.linspace(0.5, 2, len(checkpoint.state[name]))
    stored = (checkpoint.state[name] / scale[:, None]).to(torch.float8_e4m3fn)
    scaled = {**checkpoint.state, name: stored, name.replace("weight", "scale_weight"): scale}
    save_file(scaled, tmp_path / "scaled.safetensors")
    save_file({**checkpoint.state, name: stored.float() * scale[:, None]}, tmp_path / "plain.safetensors")
    assert checkpoint.draw(tmp_path / "scaled.safetensors") == checkpoint.draw(tmp_path / "plain.safetensors")


def test_a_file_without_text_encoders_takes_them_from_the_base_model(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "bare.safetensors"
    save_file({name: weight for name, weight in checkpoint.state.items() if "text_encoders." not in name}, path)
    with pytest.raises(ModelLoadError, match="holds no text_encoder.*: set BASE_MODEL to a diffusers-format folder"):
        checkpoint.draw(path)
    drawn = checkpoint.draw(path, base_model=checkpoint.folder)
    assert drawn == checkpoint.expected


def test_a_file_of_the_transformer_alone(checkpoint: Checkpoint, tmp_path: Path) -> None:
    prefix = "model.diffusion_model."
    alone = {name.removeprefix(prefix): value for name, value in checkpoint.state.items() if name.startswith(prefix)}
    save_file(alone, tmp_path / "alone.safetensors")
    assert describe(tmp_path / "alone.safetensors").kind == "transformer"
    drawn = checkpoint.draw(tmp_path / "alone.safetensors", base_model=checkpoint.folder)
    assert drawn == checkpoint.expected


def test_a_transformers_file_from_a_folder(checkpoint: Checkpoint) -> None:
    path = checkpoint.folder / "transformer/diffusion_pytorch_model.safetensors"
    assert (describe(path).kind, describe(path).layout) == ("transformer", "diffusers")
    assert checkpoint.draw(path, base_model=checkpoint.folder) == checkpoint.expected


def test_files_are_described(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_file(checkpoint.state, tmp_path / "whole.safetensors")
    description = describe(tmp_path / "whole.safetensors")
    assert (description.kind, description.layout, description.missing) == ("checkpoint", "original", ())
    assert description.family == describe(checkpoint.folder).family == checkpoint.worker_class.backend.architectures[0]
    assert {"transformer", "vae", "text_encoder", "text_encoder_2"} <= set(description.components)


def test_a_missing_tensor_is_named(checkpoint: Checkpoint, tmp_path: Path) -> None:
    name = next(name for name in checkpoint.state if name.endswith("attn.proj.weight"))
    save_file({key: value for key, value in checkpoint.state.items() if key != name}, tmp_path / "torn.safetensors")
    with pytest.raises(ModelLoadError, match=r"its transformer has no tensor 'transformer_blocks\.0\.attn\.to_"):
        checkpoint.draw(tmp_path / "torn.safetensors")


def test_an_unknown_tensor_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    strange = {**checkpoint.state, "model.diffusion_model.strange.weight": torch.zeros(2)}
    save_file(strange, tmp_path / "strange.safetensors")
    with pytest.raises(ModelLoadError, match="holds the tensor 'model.diffusion_model.strange.weight'"):
        checkpoint.draw(tmp_path / "strange.safetensors")


def test_stable_diffusion_3_draws_without_t5(tmp_path: Path) -> None:
    checkpoint = Checkpoint("sd3", tmp_path)
    path = tmp_path / "incl_clips.safetensors"
    save_file({name: value for name, value in checkpoint.state.items() if "t5xxl" not in name}, path)
    absent = {"text_encoder_3": None, "tokenizer_3": None}
    plain = diffusers.StableDiffusion3Pipeline.from_pretrained(checkpoint.folder, **absent)
    plain.save_pretrained(tmp_path / "plain")
    drawn = checkpoint.draw(path)
    assert drawn == checkpoint.draw(tmp_path / "plain")
    assert drawn != checkpoint.expected


def test_schnell_keeps_its_noise_levels_beside_the_base_model_of_dev(tmp_path: Path) -> None:
    schnell, dev = Checkpoint("flux-schnell", tmp_path / "schnell"), Checkpoint("flux-dev", tmp_path / "dev")
    path = tmp_path / "schnell.safetensors"
    save_file(schnell.state, path)
    worker = FluxWorker(settings=Settings(model=str(path), device="cpu", dtype="fp32", base_model=dev.folder))
    assert worker.pipe.scheduler.config.use_dynamic_shifting is False
    assert schnell.draw(path, base_model=dev.folder) == schnell.expected


def test_a_flux_model_for_editing_is_refused(tmp_path: Path) -> None:
    checkpoint = Checkpoint("flux-dev", tmp_path)
    name = "model.diffusion_model.img_in.weight"
    wide = checkpoint.state[name].new_zeros(checkpoint.state[name].shape[0], 384)
    save_file({**checkpoint.state, name: wide}, tmp_path / "fill.safetensors")
    with pytest.raises(ModelLoadError, match="is a FLUX.1 model for editing: its transformer takes 384 channels"):
        checkpoint.draw(tmp_path / "fill.safetensors")


def test_t5_keeps_the_precision_that_transformers_gives_it(tmp_path: Path) -> None:
    folder = save_sd3(tmp_path / "checkpoint")
    plain = transformers.T5EncoderModel.from_pretrained(folder / "text_encoder_3", dtype=torch.float16)
    worker = StableDiffusion3Worker(settings=Settings(model=str(folder), device="cpu", dtype="fp16"))
    ours = worker.pipe.text_encoder_3.state_dict()
    expected = {name: tensor.dtype for name, tensor in plain.state_dict().items()}
    assert set(expected.values()) == {torch.float16, torch.float32}
    assert {name: tensor.dtype for name, tensor in ours.items()} == expected
