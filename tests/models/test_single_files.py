"""Descriptions of single-file checkpoints: whole tiny pipelines, and the tensors of released checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import save_file

from imagegen_core import ModelLoadError
from imagegen_core.models.inspect import architecture, describe, native_size
from tests.layouts import clip_text, ldm_unet, ldm_vae, open_clip_text, save_single_file
from tests.models.files import save_header

PIPELINES = {"sdxl": StableDiffusionXLPipeline, "sd15": StableDiffusionPipeline}


@pytest.fixture(scope="module")
def pipelines(sdxl_checkpoint: Path, sd15_checkpoint: Path) -> dict[str, Any]:
    folders = {"sdxl": sdxl_checkpoint, "sd15": sd15_checkpoint}
    return {family: PIPELINES[family].from_pretrained(folder) for family, folder in folders.items()}


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize(
    ("family", "width", "components"),
    [
        ("sdxl", 64, ("unet", "vae", "text_encoder", "text_encoder_2")),
        ("sd15", 32, ("unet", "vae", "text_encoder")),
    ],
)
def test_a_whole_checkpoint_is_described_at_any_width(
    tmp_path: Path, pipelines: dict[str, Any], suffix: str, family: str, width: int, components: tuple[str, ...]
) -> None:
    pipeline = pipelines[family]
    path = save_single_file(pipeline, tmp_path / f"a{suffix}")
    description = describe(path)
    assert (description.kind, description.layout, description.family) == ("checkpoint", "ldm", family)
    assert (description.cross_attention_dim, description.input_channels) == (width, 4)
    assert (description.components, description.missing) == (components, ())
    networks = [getattr(pipeline, name) for name in components]
    positions = pipeline.text_encoder.config.max_position_embeddings  # in the file, but not a parameter
    parameters = sum(weight.numel() for network in networks for weight in network.parameters())
    assert description.parameters == parameters + positions
    assert description.dtypes == ("float32", "int64")
    assert (description.path, description.size) == (path, path.stat().st_size)
    assert (architecture(path), native_size(path, default="8x8")) == (family, "8x8")


@pytest.mark.parametrize(
    ("stated", "size"),
    [("1024x768", "1024x768"), ("1024", None), ("0x0", None), ("big", None), ("1024x1024\n", None)],
)
def test_the_native_size_comes_from_the_files_metadata(
    tmp_path: Path, pipelines: dict[str, Any], stated: str, size: str | None
) -> None:
    path = save_single_file(pipelines["sd15"], tmp_path / "a.safetensors", {"modelspec.resolution": stated})
    assert describe(path).native_size == size
    assert native_size(path, default="8x8") == (size or "8x8")


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", ""])
def test_a_unet_alone_is_described(tmp_path: Path, pipelines: dict[str, Any], prefix: str) -> None:
    family = "sdxl"
    weights = {f"{prefix}{name}": weight for name, weight in ldm_unet(pipelines[family].unet).items()}
    save_file(weights, tmp_path / "a.safetensors")
    description = describe(tmp_path / "a.safetensors")
    assert (description.kind, description.layout, description.family, description.components) == (
        "unet",
        "ldm",
        family,
        (),
    )
    assert architecture(tmp_path / "a.safetensors") == family


def test_the_component_files_of_a_folder_are_described(sdxl_checkpoint: Path) -> None:
    descriptions = {file.parent.name: describe(file) for file in sdxl_checkpoint.rglob("*.safetensors")}
    assert {
        name: (description.kind, description.layout, description.family) for name, description in descriptions.items()
    } == {
        "unet": ("unet", "diffusers", "sdxl"),
        "vae": ("vae", "diffusers", None),
        "text_encoder": ("text-encoder", "transformers", None),
        "text_encoder_2": ("text-encoder", "transformers", None),
    }


def test_parts_of_a_checkpoint_are_described(tmp_path: Path, pipelines: dict[str, Any]) -> None:
    pipeline = pipelines["sdxl"]
    vae = ldm_vae(pipeline.vae)
    parts = {
        ("vae", "ldm", None): vae,
        ("text-encoder", "ldm", "sdxl"): {
            f"conditioner.embedders.0.transformer.{name}": weight
            for name, weight in clip_text(pipeline.text_encoder).items()
        },
        ("text-encoder", "open_clip", None): open_clip_text(pipeline.text_encoder_2),
    }
    for (kind, layout, family), weights in parts.items():
        save_file({name: weight.contiguous() for name, weight in weights.items()}, tmp_path / "a.safetensors")
        description = describe(tmp_path / "a.safetensors")
        assert (description.kind, description.layout, description.family) == (kind, layout, family)


def test_missing_parts_of_a_checkpoint_are_named(tmp_path: Path, pipelines: dict[str, Any]) -> None:
    weights = {f"model.diffusion_model.{name}": weight for name, weight in ldm_unet(pipelines["sdxl"].unet).items()}
    weights |= {f"first_stage_model.{name}": weight for name, weight in ldm_vae(pipelines["sdxl"].vae).items()}
    save_file({name: weight.contiguous() for name, weight in weights.items()}, tmp_path / "a.safetensors")
    description = describe(tmp_path / "a.safetensors")
    assert (description.kind, description.components) == ("checkpoint", ("unet", "vae"))
    assert description.missing == ("text_encoder", "text_encoder_2")


def _released(width: int, encoder: str, *, channels: int = 4, **more: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Return the tensors that identify a released checkpoint, with their shapes."""
    unet = "model.diffusion_model."
    return {
        f"{unet}input_blocks.0.0.weight": (320, channels, 3, 3),
        f"{unet}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (640, width),
        f"{unet}output_blocks.0.0.in_layers.0.weight": (2560,),
        f"{unet}out.2.weight": (4, 320, 3, 3),
        **{f"{unet}{name.replace('__', '.')}": shape for name, shape in more.items()},
        "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
        "first_stage_model.decoder.up.0.block.0.conv1.weight": (128, 256, 3, 3),
        encoder: (49408, 768),
    }


CLIP = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
OPEN_CLIP = "cond_stage_model.model.token_embedding.weight"
REFINER = "conditioner.embedders.0.model.token_embedding.weight"
RELEASED = {
    "SD1.5": (_released(768, CLIP), "sd15", 4, ()),
    "SD1.5 inpainting": (_released(768, CLIP, channels=9), "sd15", 9, ()),
    "SD2.1": (_released(1024, OPEN_CLIP), "sd2", 4, ()),
    "SD2.1 unCLIP": (_released(1024, OPEN_CLIP, label_emb__0__0__weight=(1280, 2048)), "sd2", 4, ()),
    "SD2 upscaler": (_released(1024, OPEN_CLIP, channels=7, label_emb__weight=(1000, 1024)), "sd2", 7, ()),
    "SDXL": (
        _released(2048, "conditioner.embedders.1.model.ln_final.weight", label_emb__0__0__weight=(1280, 2816)),
        "sdxl",
        4,
        ("text_encoder",),
    ),
    "SDXL refiner": (_released(1280, REFINER, label_emb__0__0__weight=(1536, 2560)), "sdxl-refiner", 4, ()),
    "tiny refiner": (_released(8, REFINER, label_emb__0__0__weight=(8, 8)), "sdxl-refiner", 4, ()),
    "tiny SD2": (_released(8, OPEN_CLIP), "sd2", 4, ()),
    "768 wide SDXL": (
        _released(768, "x", label_emb__0__0__weight=(8, 8)),
        "sdxl",
        4,
        ("text_encoder", "text_encoder_2"),
    ),
}


@pytest.mark.parametrize(("shapes", "family", "channels", "missing"), RELEASED.values(), ids=RELEASED)
def test_the_families_of_released_checkpoints_are_detected(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], family: str, channels: int, missing: tuple[str, ...]
) -> None:
    path = save_header(tmp_path / "a.safetensors", shapes)
    description = describe(path)
    assert (description.kind, description.family, description.input_channels, description.missing) == (
        "checkpoint",
        family,
        channels,
        missing,
    )
    assert architecture(path) == family


UNKNOWN_MODELS = {
    "ControlNet": {
        "input_blocks.0.0.weight": (320, 4, 3, 3),
        "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
        "zero_convs.0.0.weight": (320, 320, 1, 1),
    },
    "Stable Cascade": {
        "model.diffusion_model.down_blocks.0.0.channelwise.0.weight": (8192, 2048),
        "model.diffusion_model.clf.1.weight": (16, 2048, 1, 1),
    },
}


@pytest.mark.parametrize("shapes", UNKNOWN_MODELS.values(), ids=UNKNOWN_MODELS)
def test_an_unknown_model_is_refused(tmp_path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    path = save_header(tmp_path / "a.safetensors", shapes)
    with pytest.raises(ModelLoadError, match=f"Cannot tell what .*a.safetensors is: .*'{next(iter(shapes))}'"):
        describe(path)


def test_a_unet_of_an_unknown_family_is_refused(tmp_path: Path) -> None:
    path = save_header(tmp_path / "a.safetensors", _released(96, "x"))
    with pytest.raises(ModelLoadError, match="Cannot tell what .* no known model; expected a checkpoint .*Stable Diff"):
        describe(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_files_suffix_does_not_matter(tmp_path: Path, pipelines: dict[str, Any], suffix: str) -> None:
    other = {".safetensors": ".ckpt", ".ckpt": ".safetensors"}[suffix]
    path = save_single_file(pipelines["sd15"], tmp_path / f"a{suffix}")
    assert describe(path.rename(tmp_path / f"b{other}")).family == "sd15"


def test_half_precision_is_detected(tmp_path: Path, pipelines: dict[str, Any]) -> None:
    weights = {name: weight.to(torch.float16) for name, weight in ldm_unet(pipelines["sdxl"].unet).items()}
    save_file(weights, tmp_path / "a.safetensors")
    assert describe(tmp_path / "a.safetensors").dtypes == ("float16",)
