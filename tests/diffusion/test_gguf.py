"""GGUF files load as their own library dequantizes them, and draw the pictures of the same weights in a folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import diffusers
import gguf
import pytest
import torch
from safetensors.torch import save_file

from imagegen_core import ModelLoadError, PluginError, Settings, generate
from imagegen_core.diffusion.networks import Weights
from imagegen_core.diffusion.weights_file import WeightsFile
from imagegen_core.models.networks.source import Source
from imagegen_flux import FluxWorker
from imagegen_sd15 import DiffusersCudaWorker
from imagegen_sdxl import DiffusersSDXLCudaWorker
from tests.checkpoints import save_flux, save_sd15
from tests.gguf_files import Kind, finish, random_blocks, save_gguf
from tests.layouts import ldm_state, ldm_unet, original_flux

KINDS = ("F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
K_KINDS = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "IQ4_NL")


def _pixels(worker_class: Any, path: Path, **settings: Any) -> bytes:
    worker = worker_class(settings=Settings(model=str(path), device="cpu", dtype="fp32", recipe=False, **settings))
    return generate("a lake", worker=worker, seed=3, size="64x64", num_inference_steps=2).image.tobytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_that_the_library_dequantizes(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    state = {"w": torch.randn(700, 256), "b": torch.randn(5)}  # more elements than are dequantized at a time
    expected = save_gguf(tmp_path / "a.gguf", state, Kind[kind])
    with WeightsFile(tmp_path / "a.gguf") as file:
        for name, tensor in expected.items():
            assert torch.equal(file.read(name, dtype), tensor.to(dtype))


@pytest.mark.parametrize("kind", K_KINDS)
def test_rows_of_k_quantizations(tmp_path: Path, kind: str) -> None:
    blocks = random_blocks(Kind[kind], 8, 512)
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "flux")
    writer.add_array("comfy.gguf.orig_shape.odd", [32, 128])
    for name in ("w", "odd"):
        writer.add_tensor(name, blocks, raw_dtype=Kind[kind])
    finish(writer)
    expected = torch.from_numpy(gguf.quants.dequantize(blocks, Kind[kind]).copy())
    assert expected.isfinite().all()
    with Weights([tmp_path / "a.gguf"]) as weights:
        whole = Source("w", kind.lower(), (8, 512))
        assert torch.equal(weights.read(whole, torch.float32), expected)
        assert torch.equal(weights.read(whole.taking((6, 8), (1, 3)), torch.float32), expected[[6, 7, 1, 2]])
        odd = Source("odd", kind.lower(), (32, 128)).taking((5, 9))  # these rows begin and end within blocks
        assert torch.equal(weights.read(odd, torch.float32), expected.reshape(32, 128)[5:9])


def test_a_unet_alone_draws_with_the_other_networks_of_the_base(tmp_path: Path) -> None:
    folder = save_sd15(tmp_path / "sd15", text_width=768)
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    unet = {name.removeprefix("model.diffusion_model."): tensor for name, tensor in ldm_unet(pipeline.unet).items()}
    same = save_gguf(tmp_path / "unet.gguf", unet, Kind.Q5_0, architecture="sd1")
    save_file(same, tmp_path / "unet.safetensors")
    drawn = _pixels(DiffusersCudaWorker, tmp_path / "unet.gguf", base_model=folder)
    assert drawn == _pixels(DiffusersCudaWorker, tmp_path / "unet.safetensors", base_model=folder)
    assert drawn != _pixels(DiffusersCudaWorker, folder)


def test_a_whole_checkpoint_draws(sdxl_checkpoint: Path, tmp_path: Path) -> None:
    pipeline = diffusers.StableDiffusionXLPipeline.from_pretrained(sdxl_checkpoint, local_files_only=True)
    same = save_gguf(tmp_path / "a.gguf", ldm_state(pipeline), Kind.Q8_0)
    save_file({name: tensor.contiguous() for name, tensor in same.items()}, tmp_path / "a.safetensors")
    drawn = _pixels(DiffusersSDXLCudaWorker, tmp_path / "a.gguf", base_model=sdxl_checkpoint)
    assert drawn == _pixels(DiffusersSDXLCudaWorker, tmp_path / "a.safetensors", base_model=sdxl_checkpoint)


def test_a_flux_transformer_draws(tmp_path: Path) -> None:
    axes = {"attention_head_dim": 32, "num_attention_heads": 1, "axes_dims_rope": (4, 14, 14)}
    folder = save_flux(tmp_path / "flux", like_released=True, **axes)
    state = original_flux(diffusers.FluxPipeline.from_pretrained(folder, local_files_only=True))
    prefix = "model.diffusion_model."
    transformer = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    same = save_gguf(tmp_path / "flux.gguf", transformer or state, Kind.Q8_0, architecture="flux")
    save_file(same, tmp_path / "flux.safetensors")
    drawn = _pixels(FluxWorker, tmp_path / "flux.gguf", base_model=folder)
    assert drawn == _pixels(FluxWorker, tmp_path / "flux.safetensors", base_model=folder)


def test_a_quantized_file_without_the_library_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_gguf(tmp_path / "a.gguf", {"w": torch.zeros(2, 32)})
    monkeypatch.setitem(sys.modules, "gguf", None)
    with (
        WeightsFile(tmp_path / "a.gguf") as file,
        pytest.raises(PluginError, match=r"pip install 'imagegen-core\[gguf\]'"),
    ):
        file.read("w")


def test_integers_are_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "flux")
    writer.add_tensor("w", torch.zeros(2, 32, dtype=torch.int8).numpy())
    finish(writer)
    with (
        Weights([tmp_path / "a.gguf"]) as weights,
        pytest.raises(ModelLoadError, match="holds 'w' as int8, a quantization that is not read here"),
    ):
        weights.read(Source("w", "int8", (2, 32)), torch.float32)
