"""Each tensor of a checkpoint or VAE file is used, known to be harmless, or refused by its name."""

from __future__ import annotations

import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from imagegen_core import GenerateRequest, Job, ModelLoadError, Settings, generate
from imagegen_core.diffusion.loading import load_vae
from imagegen_sd15 import DiffusersCudaWorker
from imagegen_sdxl import DiffusersSDXLCudaWorker
from tests.layouts import ldm_state, ldm_vae

State = dict[str, torch.Tensor]
FAMILIES: dict[str, Any] = {
    "sdxl": (DiffusersSDXLCudaWorker, diffusers.StableDiffusionXLPipeline),
    "sd15": (DiffusersCudaWorker, diffusers.StableDiffusionPipeline),
}
UNET = "model.diffusion_model."
CLIP = "cond_stage_model.transformer."
FP8 = torch.float8_e4m3fn


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def plain(family: str, request: pytest.FixtureRequest) -> Any:
    """The plain pipeline; its folder is its ``name_or_path``."""
    folder = request.getfixturevalue(f"{family}_checkpoint")
    pipeline = FAMILIES[family][1].from_pretrained(folder, local_files_only=True)
    pipeline.scheduler = diffusers.LCMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def state(plain: Any) -> State:
    return ldm_state(plain)


def _load(family: str, path: Path, plain: Any, **settings: Any) -> Any:
    base = Path(plain.config._name_or_path)
    return FAMILIES[family][0](
        settings=Settings(model=str(path), base_model=base, device="cpu", dtype="fp32", recipe=False, **settings)
    )


def _picture(worker: Any) -> Any:
    options: dict[str, Any] = {"seed": 5, "size": "64x64", "num_inference_steps": 2, "guidance_scale": 2.0}
    return np.asarray(generate("a lake", worker=worker, **options).image, int)


def _expected(plain: Any) -> Any:
    options: dict[str, Any] = {"width": 64, "height": 64, "num_inference_steps": 2, "guidance_scale": 2.0}
    return np.asarray(plain("a lake", generator=torch.Generator("cpu").manual_seed(5), **options).images[0], int)


def _averages(state: State) -> State:
    unet = {name: tensor for name, tensor in state.items() if name.startswith(UNET)}
    dotless = {name.removeprefix("model.").replace(".", ""): torch.zeros_like(tensor) for name, tensor in unet.items()}
    return {f"model_ema.{name}": tensor for name, tensor in dotless.items()}


def _old_attention(state: State) -> State:
    new = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0", "norm": "group_norm"}
    pattern = re.compile(r"(first_stage_model\.\w+\.mid\.attn_1\.)(q|k|v|proj_out|norm)\.")
    return {pattern.sub(lambda match: f"{match[1]}{new[match[2]]}.", name): tensor for name, tensor in state.items()}


HARMLESS: dict[str, Callable[[State], State]] = {
    "moving averages": lambda state: state | _averages(state) | {"model_ema.decay": torch.tensor(0.99)},
    "a noise schedule": lambda state: (
        state
        | {
            name: torch.rand(9)
            for name in ("betas", "alphas_cumprod", "posterior_mean_coef1", "denoiser.sigmas", "logvar")
        }
    ),
    "a text encoder's extras": lambda state: (
        state
        | {
            "cond_stage_model.logit_scale": torch.tensor(1.0),
            "conditioner.embedders.1.model.logit_scale": torch.tensor(1.0),
        }
    ),
    "a VAE's training state": lambda state: (
        state | {"first_stage_model.loss.logvar": torch.zeros(()), "loss.discriminator.main.0.weight": torch.rand(2, 2)}
    ),
    "a safety checker": lambda state: state | {"safety_checker.concept_embeds": torch.rand(3, 4)},
    "format markers": lambda state: state | {f"{UNET}scaled_fp8": torch.zeros(2, dtype=FP8)},
    "EveryDream's VAE names": _old_attention,
    "a VAE with linear attention": lambda state: {
        name: tensor[:, :, 0, 0] if "attn_1" in name and tensor.ndim == 4 else tensor for name, tensor in state.items()
    },
    "a VAE without an encoder": lambda state: {
        name: tensor
        for name, tensor in state.items()
        if not name.startswith(("first_stage_model.encoder", "first_stage_model.quant"))
    },
    "the VAE's other prefix": lambda state: {
        name.replace("first_stage_model.", "vae."): tensor for name, tensor in state.items()
    },
    "CLIP's older names": lambda state: {
        name.replace(f"{CLIP}text_model.", CLIP): tensor for name, tensor in state.items()
    },
    "parallel training's names": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "several precisions": lambda state: {
        name: tensor.double() if name.startswith("first_stage") else tensor for name, tensor in state.items()
    },
}


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_harmless_tensors_do_not_change_the_picture(
    family: str, plain: Any, state: State, tmp_path: Path, change: Callable[[State], State]
) -> None:
    save_file({name: tensor.contiguous() for name, tensor in change(state).items()}, tmp_path / "a.safetensors")
    assert np.abs(_picture(_load(family, tmp_path / "a.safetensors", plain)) - _expected(plain)).max() <= 1


def test_a_vae_without_an_encoder_has_previews(family: str, plain: Any, state: State, tmp_path: Path) -> None:
    save_file(HARMLESS["a VAE without an encoder"](state), tmp_path / "a.safetensors")
    worker = _load(family, tmp_path / "a.safetensors", plain)
    assert worker.pipe.vae.encoder is None
    denoising = worker.begin(Job(req=GenerateRequest(prompt="a lake", size="64x48")))
    assert Image.open(BytesIO(worker.preview(denoising))).size == (8, 6)


UNKNOWN_TENSORS = [
    "control_model.input_blocks.0.0.weight",
    f"{UNET}input_blocks.1.1.motion_module.proj_in.weight",
    f"{UNET}input_blocks.1.0.in_layers.2.adapter.weight",
    f"{UNET}output_blocks.9.0.in_layers.0.weight",
    f"{UNET}input_blocks.1.0.in_layers.3.weight",
    f"{UNET}out.2.scale_weight_2",
    f"{UNET}input_blocks.1.0.in_layers.1.scale_weight",
    "first_stage_model.decoder.up.0.attn.0.norm.weight",
    "first_stage_model.encoder.down.0.extra.weight",
    "cond_stage_model.transformer.text_model.encoder.layers.0.adapter.weight",
    "ip_adapter.1.to_k_ip.weight",
    "embedding_manager.string_to_param.star",
    "something",
]


@pytest.mark.parametrize("name", UNKNOWN_TENSORS)
def test_an_unknown_tensor_is_refused_by_name(family: str, plain: Any, state: State, tmp_path: Path, name: str) -> None:
    if family == "sdxl":
        name = name.replace("cond_stage_model.", "conditioner.embedders.0.")
    save_file({**state, name: torch.ones(4)}, tmp_path / "a.safetensors")
    with pytest.raises(ModelLoadError, match=rf"holds the tensor '{re.escape(name)}', which the networks .* refused"):
        _load(family, tmp_path / "a.safetensors", plain)


@pytest.mark.parametrize(
    "missing",
    [f"{UNET}middle_block.0.out_layers.3.bias", f"{UNET}time_embed.2.weight", "first_stage_model.decoder.conv_in.bias"],
)
def test_a_missing_tensor_is_named(family: str, plain: Any, state: State, tmp_path: Path, missing: str) -> None:
    save_file({name: tensor for name, tensor in state.items() if name != missing}, tmp_path / "a.safetensors")
    with pytest.raises(ModelLoadError, match="does not match .* has no tensor '.*(bias|weight)'"):
        _load(family, tmp_path / "a.safetensors", plain)


def test_a_tensor_of_the_wrong_shape_is_named(family: str, plain: Any, state: State, tmp_path: Path) -> None:
    name = f"{UNET}middle_block.0.out_layers.3.weight"
    save_file({**state, name: torch.ones(64, 64, 1, 1)}, tmp_path / "a.safetensors")
    with pytest.raises(ModelLoadError, match=rf"{re.escape(name)}' has the shape \[64, 64, 1, 1\], expected"):
        _load(family, tmp_path / "a.safetensors", plain)


def test_averages_without_their_weights_are_refused(family: str, plain: Any, state: State, tmp_path: Path) -> None:
    others = {name: tensor for name, tensor in state.items() if not name.startswith(UNET)}
    for rest in ({}, others):
        save_file(rest | _averages(state), tmp_path / "a.safetensors")
        with pytest.raises(ModelLoadError, match="holds its UNet's moving averages .*model.diffusion_model"):
            _load(family, tmp_path / "a.safetensors", plain)


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_weights_inside_a_wrapper_in_a_pickle_are_read(
    family: str, plain: Any, state: State, tmp_path: Path, wrapper: str
) -> None:
    torch.save({wrapper: state, "optimizer": {"state": {"m": torch.ones(3)}}}, tmp_path / "a.ckpt")
    assert np.abs(_picture(_load(family, tmp_path / "a.ckpt", plain)) - _expected(plain)).max() <= 1


def _scaled(state: State, naming: str, *, by_row: bool) -> State:
    """The state with 8-bit linear layers in the UNet and text encoders, and their scales, as ComfyUI writes them."""
    result = {}
    for name, tensor in state.items():
        is_scaled = name.endswith(".weight") and tensor.ndim == 2 and not name.startswith("first_stage")
        if not is_scaled or "embedding" in name:
            result[name] = tensor
            continue
        largest = tensor.abs().amax(dim=1, keepdim=True) if by_row else tensor.abs().max()
        scale = largest / 448.0
        result[name] = (tensor / scale).to(FP8)
        result[f"{name.removesuffix('weight')}{naming}"] = scale
        result[f"{name.removesuffix('weight')}scale_input"] = torch.tensor(1.0)
    return {**result, f"{UNET}scaled_fp8": torch.zeros(0, dtype=FP8)}


@pytest.mark.parametrize("naming", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("by_row", [False, True])
def test_8_bit_weights_are_multiplied_by_their_scales(
    family: str, plain: Any, state: State, tmp_path: Path, naming: str, by_row: bool
) -> None:
    scaled = _scaled(state, naming, by_row=by_row)
    scales = {name: tensor for name, tensor in scaled.items() if name.endswith(naming)}
    by_hand = dict(state)
    for name, scale in scales.items():
        weight = f"{name.removesuffix(naming)}weight"
        by_hand[weight] = scaled[weight].float() * scale
    save_file(scaled, tmp_path / "scaled.safetensors")
    save_file(by_hand, tmp_path / "by-hand.safetensors")
    drawn = [_picture(_load(family, tmp_path / f"{name}.safetensors", plain)) for name in ("scaled", "by-hand")]
    assert np.array_equal(*drawn)
    assert np.abs(drawn[0] - _expected(plain)).max() < 64  # without the scales, the picture is entirely different


def test_scales_for_blocks_are_refused(family: str, plain: Any, state: State, tmp_path: Path) -> None:
    name = f"{UNET}time_embed.0.weight"
    state = {**state, name: state[name].to(FP8), name.replace("weight", "weight_scale"): torch.ones(2, 2)}
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(
        ModelLoadError, match=r"with the shape \[2, 2\]: one scale for a tensor or for each row is read"
    ):
        _load(family, tmp_path / "a.safetensors", plain)


def test_integer_weights_are_refused(family: str, plain: Any, state: State, tmp_path: Path) -> None:
    name = f"{UNET}time_embed.0.weight"
    save_file({**state, name: torch.ones_like(state[name], dtype=torch.int8)}, tmp_path / "a.safetensors")
    with pytest.raises(ModelLoadError, match="as int8, a quantization that is not read here"):
        _load(family, tmp_path / "a.safetensors", plain)


@pytest.mark.parametrize("prefix", ["", "vae.", "first_stage_model."])
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt", ".pt", ".bin"])
@pytest.mark.parametrize("layout", ["ldm", "diffusers"])
def test_a_vae_loads_with_any_prefix_and_suffix(
    sd15_checkpoint: Path, tmp_path: Path, prefix: str, suffix: str, layout: str
) -> None:
    vae = diffusers.AutoencoderKL.from_pretrained(sd15_checkpoint / "vae")
    tensors = ldm_vae(vae) if layout == "ldm" else vae.state_dict()
    state = {f"{prefix}{name}": tensor.clone() for name, tensor in tensors.items()}
    state["loss.logvar"] = torch.zeros(1)
    path = tmp_path / f"a{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state} if suffix == ".ckpt" else state, path)
    loaded = load_vae(path, torch.float32, sd15_checkpoint / "vae")
    for name, tensor in vae.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


@pytest.mark.parametrize("part", ["none", "some", "all"])
def test_a_configured_vae_replaces_the_files_vae(
    family: str, plain: Any, state: State, tmp_path: Path, part: str
) -> None:
    plain.vae.save_pretrained(tmp_path / "vae")
    vae = {name: tensor * 0 for name, tensor in state.items() if name.startswith("first_stage_model.")}
    others = {name: tensor for name, tensor in state.items() if name not in vae}
    kept = {"none": {}, "some": dict(list(vae.items())[:3]), "all": vae}[part]
    save_file(others | kept, tmp_path / "a.safetensors")
    worker = _load(family, tmp_path / "a.safetensors", plain, vae_path=tmp_path / "vae")
    assert np.abs(_picture(worker) - _expected(plain)).max() <= 1


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_an_unknown_tensor_in_a_vae_file_is_named(tmp_path: Path, sdxl_checkpoint: Path, prefix: str) -> None:
    state = load_file(next((sdxl_checkpoint / "vae").glob("*.safetensors"))) | {"decoder.something": torch.ones(2)}
    save_file({f"{prefix}{name}": tensor for name, tensor in state.items()}, tmp_path / "a.safetensors")
    with pytest.raises(ModelLoadError, match=f"'{prefix}decoder.something'"):
        load_vae(tmp_path / "a.safetensors", torch.float32, sdxl_checkpoint / "vae")
    save_file({"decoder.something": torch.ones(2)}, tmp_path / "a.safetensors")
    with pytest.raises(ModelLoadError, match="holds no VAE: correct VAE_PATH"):
        load_vae(tmp_path / "a.safetensors", torch.float32, sdxl_checkpoint / "vae")
