"""Single files load without ``BASE_MODEL``: tensor shapes determine the networks, and they compute the saved values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

import imagegen_sd15
import imagegen_sdxl
from imagegen_core import ModelLoadError, Settings, generate
from imagegen_core.diffusion import single_file
from imagegen_core.diffusion.single_file import load_single_file
from imagegen_core.models.inspect import architecture
from imagegen_sd15.families import SD2, SD15
from imagegen_sdxl.families import SDXL
from tests.checkpoints import tiny_scheduler, tiny_tokenizer
from tests.layouts import clip_text, ldm_state, ldm_unet, open_clip_text

FAMILIES = {family.name: family for family in (SD15, SD2, SDXL)}
CONFIGS = {
    "sd15": Path(imagegen_sd15.__file__).parent / "configs",
    "sd2": Path(imagegen_sd15.__file__).parent / "configs/sd2",
    "sdxl": Path(imagegen_sdxl.__file__).parent / "configs",
}
SDXL_BLOCKS = {
    "block_out_channels": (64, 64, 128),
    "attention_head_dim": (1, 1, 2),  # 64 channels each
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 128 + 64,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 64,
}
SD_BLOCKS = {
    "block_out_channels": (32, 64, 64),
    "attention_head_dim": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 128,
}
# The blocks of https://huggingface.co/segmind/SSD-1B, Segmind-Vega and etri-vilab/koala-700m, -1b, with fewer layers.
UNETS: dict[str, tuple[str, dict[str, Any]]] = {
    "SDXL": ("sdxl", {**SDXL_BLOCKS, "transformer_layers_per_block": [1, 2, 3]}),
    "SSD-1B": (
        "sdxl",
        {
            **SDXL_BLOCKS,
            "transformer_layers_per_block": [1, [2, 2], [3, 3]],
            "reverse_transformer_layers_per_block": [[3, 3, 4], [2, 1, 1], 1],
            "mid_block_type": "UNetMidBlock2D",
        },
    ),
    "Vega": ("sdxl", {**SDXL_BLOCKS, "transformer_layers_per_block": [1, 1, 2], "mid_block_type": "UNetMidBlock2D"}),
    "KOALA-700M": (
        "sdxl",
        {**SDXL_BLOCKS, "layers_per_block": 1, "transformer_layers_per_block": [1, 2, 3], "mid_block_type": None},
    ),
    "KOALA-1B": ("sdxl", {**SDXL_BLOCKS, "layers_per_block": 1, "transformer_layers_per_block": [1, 2, 3]}),
    "SD1.5": ("sd15", SD_BLOCKS),
    "SD1.5, deeper": ("sd15", {**SD_BLOCKS, "layers_per_block": 3}),
    "SD1.5, several depths": (
        "sd15",
        {**SD_BLOCKS, "layers_per_block": (1, 2, 1), "transformer_layers_per_block": (2, 1, 1)},
    ),
    "SD1.5, narrower": ("sd15", {**SD_BLOCKS, "block_out_channels": (32, 32, 64)}),
    "SD2": (
        "sd2",
        {
            **SD_BLOCKS,
            "block_out_channels": (64, 128, 128),
            "attention_head_dim": (1, 2, 2),
            "use_linear_projection": True,
        },
    ),
}


def _text_config(act: str, **config: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        **{
            "vocab_size": 120,
            "hidden_size": 128,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "hidden_act": act,
            "bos_token_id": 92,
            "eos_token_id": 93,
            **config,
        }
    )


def _pipeline(family: str, unet: dict[str, Any], folder: Path) -> Any:
    """A tiny pipeline that follows its family's rules: heads, norm groups, activations."""
    torch.manual_seed(3)
    tokenizer = tiny_tokenizer(folder / "tokenizer")
    tokenizer.pad_token = "!" if family == "sd2" else "<|endoftext|>"
    parts: dict[str, Any] = {
        "unet": UNet2DConditionModel(sample_size=8, **unet),
        "vae": AutoencoderKL(
            block_out_channels=(32, 32, 64, 64),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            scaling_factor=0.13025 if family == "sdxl" else 0.18215,
        ),
        "text_encoder": CLIPTextModel(_text_config("gelu" if family == "sd2" else "quick_gelu")),
        "tokenizer": tokenizer,
        "scheduler": tiny_scheduler(),
    }
    if family != "sdxl":
        absent = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        return diffusers.StableDiffusionPipeline(**parts, **absent)
    tokenizer_2 = tiny_tokenizer(folder / "tokenizer_2")
    tokenizer_2.pad_token = "!"
    second = CLIPTextModelWithProjection(_text_config("gelu", hidden_size=64, num_attention_heads=1, projection_dim=64))
    return diffusers.StableDiffusionXLPipeline(
        **parts, tokenizer_2=tokenizer_2, text_encoder_2=second, add_watermarker=False
    )


def _state(family: str, pipeline: Any) -> dict[str, torch.Tensor]:
    """The file's tensors; Stable Diffusion 2's text encoder has open_clip's names."""
    state = ldm_state(pipeline)
    if family == "sd2":
        state = {name: tensor for name, tensor in state.items() if not name.startswith("cond_stage_model.")}
        encoder = open_clip_text(pipeline.text_encoder)
        state |= {f"cond_stage_model.model.{name}": tensor for name, tensor in encoder.items()}
    return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}


@pytest.fixture(autouse=True)
def _tokenizers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Replace CLIP's tokenizer, absent from a single file, with a tokenizer of single letters."""

    def find(base: Path | None, name: str, pad_token: str) -> Any:
        assert base is None
        tokenizer = tiny_tokenizer(tmp_path / f"found-{name}")
        tokenizer.pad_token = pad_token
        return tokenizer

    monkeypatch.setattr(single_file, "find_tokenizer", find)


@pytest.mark.parametrize(("family", "config"), UNETS.values(), ids=UNETS)
def test_a_single_files_networks_compute_the_saved_values(tmp_path: Path, family: str, config: dict[str, Any]) -> None:
    pipeline = _pipeline(family, config, tmp_path)
    path = tmp_path / "model.safetensors"
    save_file(_state(family, pipeline), path)

    loaded = load_single_file(path, torch.float32, CONFIGS[family], None, family=FAMILIES[family])

    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        if (network := getattr(pipeline, name, None)) is not None:
            assert loaded[name].state_dict().keys() == network.state_dict().keys()
    added = {}
    if family == "sdxl":
        assert loaded["unet"].config.addition_time_embed_dim == 8
        added = {"text_embeds": torch.randn(2, 64), "time_ids": torch.full((2, 6), 64.0)}
    latents, timestep = torch.randn(2, 4, 8, 8), torch.tensor([7, 900])
    tokens = torch.tensor([[92, 5, 6, 93, 93]])
    with torch.no_grad():
        inputs = {"encoder_hidden_states": torch.randn(2, 5, config["cross_attention_dim"]), "added_cond_kwargs": added}
        assert torch.equal(
            loaded["unet"](latents, timestep, **inputs).sample, pipeline.unet.eval()(latents, timestep, **inputs).sample
        )
        latents = latents[:1, :, :2, :2]
        assert torch.equal(loaded["vae"].decode(latents).sample, pipeline.vae.eval().decode(latents).sample)
        assert torch.equal(loaded["text_encoder"](tokens)[0], pipeline.text_encoder.eval()(tokens)[0])
        if family == "sdxl":
            assert torch.equal(
                loaded["text_encoder_2"](tokens).text_embeds, pipeline.text_encoder_2.eval()(tokens).text_embeds
            )


@pytest.mark.parametrize("layout", ["ldm", "diffusers"])
def test_a_unet_alone_is_built_from_its_shapes(tmp_path: Path, layout: str) -> None:
    """The UNet has guidance embeddings, as LCM's full UNets do; the base supplies the other networks."""
    config = {**SDXL_BLOCKS, "transformer_layers_per_block": [1, 1, 2], "time_cond_proj_dim": 16}
    pipeline = _pipeline("sdxl", SDXL_BLOCKS, tmp_path)
    pipeline.save_pretrained(tmp_path / "base")
    unet = UNet2DConditionModel(sample_size=8, **config).eval()
    tensors = ldm_unet(unet) if layout == "ldm" else unet.state_dict()
    renamed = {
        name.replace("time_embedding.cond_proj", "time_embed.cond_proj"): tensor for name, tensor in tensors.items()
    }
    save_file(renamed if layout == "ldm" else tensors, tmp_path / "unet.safetensors")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(single_file, "find_tokenizer", lambda *_: None)
        loaded = load_single_file(
            tmp_path / "unet.safetensors", torch.float32, CONFIGS["sdxl"], tmp_path / "base", family=SDXL
        )

    assert loaded["unet"].config.time_cond_proj_dim == 16
    for name, tensor in unet.state_dict().items():
        assert torch.equal(loaded["unet"].state_dict()[name], tensor), name


def test_stable_diffusion_2_draws_the_plain_pipelines_picture(tmp_path: Path) -> None:
    pipeline = _pipeline("sd2", UNETS["SD2"][1], tmp_path)
    pipeline.text_encoder = CLIPTextModel(_text_config("gelu", num_hidden_layers=23)).eval()
    state = _state("sd2", pipeline)
    last_layer = {
        name: tensor
        for name, tensor in state.items()
        if name.startswith("cond_stage_model.model.transformer.resblocks.22.")
    }
    state |= {name.replace(".22.", ".23."): torch.randn_like(tensor) for name, tensor in last_layer.items()}
    state |= {"cond_stage_model.model.text_projection": torch.randn(128, 128)}
    state |= {"cond_stage_model.model.logit_scale": torch.tensor(4.6)}
    path = tmp_path / "model.safetensors"
    save_file(state, path)
    assert architecture(path) == "sd2"
    pipeline.scheduler = diffusers.LCMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    options: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 3.0}
    expected = pipeline(
        "a lake", width=64, height=64, generator=torch.Generator("cpu").manual_seed(7), **options
    ).images[0]

    worker = imagegen_sd15.DiffusersCudaWorker(settings=Settings(model=str(path), device="cpu", dtype="fp32"))
    drawn = generate("a lake", worker=worker, seed=7, size="64x64", **options).image

    assert np.abs(np.asarray(drawn, int) - np.asarray(expected, int)).max() <= 1


def test_text_encoders_load_under_both_namings(tmp_path: Path) -> None:
    """Some tools write Stable Diffusion 2's text encoder, or SDXL's second encoder, under transformers' names."""
    pipeline = _pipeline("sd2", UNETS["SD2"][1], tmp_path)
    state = {
        name: tensor for name, tensor in _state("sd2", pipeline).items() if not name.startswith("cond_stage_model.")
    }
    encoder = clip_text(pipeline.text_encoder)
    state |= {f"cond_stage_model.transformer.{name}": tensor for name, tensor in encoder.items()}
    save_file(state, tmp_path / "model.safetensors")
    loaded = load_single_file(tmp_path / "model.safetensors", torch.float32, CONFIGS["sd2"], None, family=SD2)
    for name, tensor in pipeline.text_encoder.state_dict().items():
        assert torch.equal(loaded["text_encoder"].state_dict()[name], tensor), name


@pytest.mark.parametrize(
    ("channels", "words"),
    [
        (5, "is a depth-to-image model, .*takes 5 channels"),
        (7, "is an upscaling model"),
        (6, "is no text-to-image model"),
    ],
)
@pytest.mark.parametrize("form", ["file", "folder"])
def test_unets_with_unknown_inputs_are_refused(tmp_path: Path, channels: int, words: str, form: str) -> None:
    pipeline = _pipeline("sd15", {**SD_BLOCKS, "in_channels": channels, "cross_attention_dim": 768}, tmp_path)
    path = tmp_path / "model"
    if form == "folder":
        pipeline.save_pretrained(path)
    else:
        save_file(_state("sd15", pipeline), path)
    with pytest.raises(ModelLoadError, match=words):
        imagegen_sd15.DiffusersCudaWorker(settings=Settings(model=str(path), device="cpu"))


@pytest.mark.parametrize("form", ["file", "folder"])
def test_a_refiner_is_refused(tmp_path: Path, form: str) -> None:
    pipeline = _pipeline("sdxl", {**SDXL_BLOCKS, "cross_attention_dim": 64}, tmp_path)
    path = tmp_path / "model"
    if form == "folder":
        pipeline.register_modules(text_encoder=None, tokenizer=None)
        pipeline.save_pretrained(path)
    else:
        state = {
            name.replace("conditioner.embedders.1.", "conditioner.embedders.0."): tensor
            for name, tensor in _state("sdxl", pipeline).items()
            if not name.startswith("conditioner.embedders.0.")
        }
        save_file(state, path)
    with pytest.raises(
        ModelLoadError, match="is a checkpoint of the family sdxl-refiner, which backend 'sdxl' does not"
    ):
        imagegen_sdxl.DiffusersSDXLCudaWorker(settings=Settings(model=str(path), device="cpu"))
