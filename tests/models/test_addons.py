"""LoRAs of every naming, embeddings and upscalers are detected by their tensors."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagegen_core import ModelLoadError
from imagegen_core.models.inspect import architecture, describe
from tests.models.files import save_header

BLOCK = "down_blocks_1_attentions_0_transformer_blocks_0"
DOTTED = "down_blocks.1.attentions.0.transformer_blocks.0"
KOHYA = f"lora_unet_{BLOCK}_attn2_to_k"


def _pair(down: str, up: str, width: int) -> dict[str, tuple[int, ...]]:
    return {down: (4, width), up: (640, 4)}


def _kohya(module: str, width: int) -> dict[str, tuple[int, ...]]:
    return {**_pair(f"{module}.lora_down.weight", f"{module}.lora_up.weight", width), f"{module}.alpha": ()}


LORAS = {
    "kohya SD1.5": (_kohya(KOHYA, 768), "kohya", "lora", 768, "sd15"),
    "kohya SD2": (_kohya(KOHYA, 1024), "kohya", "lora", 1024, "sd2"),
    "kohya SDXL by LDM's names": (
        _kohya("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", 2048),
        "kohya",
        "lora",
        2048,
        "sdxl",
    ),
    "kohya, tiny": (_kohya(KOHYA, 64), "kohya", "lora", 64, None),
    "kohya, tiny SDXL": (
        {**_kohya(KOHYA, 64), **_kohya("lora_te2_text_model_encoder_layers_0_mlp_fc1", 32)},
        "kohya",
        "lora",
        64,
        "sdxl",
    ),
    "kohya, to_q alone": (_kohya(f"lora_unet_{BLOCK}_attn2_to_q", 320), "kohya", "lora", None, None),
    "kohya, SDXL by its depth": (
        _kohya("lora_unet_input_blocks_7_1_transformer_blocks_9_attn2_to_q", 1280),
        "kohya",
        "lora",
        None,
        "sdxl",
    ),
    "kohya, text encoder alone": (
        _kohya("lora_te_text_model_encoder_layers_0_mlp_fc1", 768),
        "kohya",
        "lora",
        None,
        None,
    ),
    "diffusers": (
        _pair(f"unet.{DOTTED}.attn2.to_k.lora_A.weight", f"unet.{DOTTED}.attn2.to_k.lora_B.weight", 2048),
        "diffusers",
        "lora",
        2048,
        "sdxl",
    ),
    "diffusers, old": (
        _pair(f"unet.{DOTTED}.attn2.to_k.lora.down.weight", f"unet.{DOTTED}.attn2.to_k.lora.up.weight", 768),
        "diffusers",
        "lora",
        768,
        "sd15",
    ),
    "diffusers, older": (
        _pair(f"{DOTTED}.attn2.processor.to_k_lora.down.weight", f"{DOTTED}.attn2.processor.to_k_lora.up.weight", 768),
        "diffusers",
        "lora",
        768,
        "sd15",
    ),
    "diffusers, second text encoder": (
        _pair(
            "text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight",
            "text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj.lora_B.weight",
            1280,
        ),
        "diffusers",
        "lora",
        None,
        "sdxl",
    ),
    "diffusers, Flux": (
        _pair("transformer.transformer_blocks.1.attn.to_q.lora_A.weight", "transformer.x.lora_B.weight", 3072),
        "diffusers",
        "lora",
        None,
        None,
    ),
    "PEFT": (
        _pair(
            f"base_model.model.{DOTTED}.attn2.to_k.lora_A.weight",
            f"base_model.model.{DOTTED}.attn2.to_k.lora_B.weight",
            1024,
        ),
        "peft",
        "lora",
        1024,
        "sd2",
    ),
    "PEFT, named adapter": (
        {f"base_model.model.{DOTTED}.attn2.to_k.lora_A.default.weight": (4, 768)},
        "peft",
        "lora",
        768,
        "sd15",
    ),
    "DoRA": ({**_kohya(KOHYA, 768), f"{KOHYA}.dora_scale": (1, 768)}, "kohya", "dora", 768, "sd15"),
    "DoRA of PEFT": (
        {
            f"base_model.model.{DOTTED}.attn2.to_k.lora_A.weight": (4, 768),
            f"base_model.model.{DOTTED}.attn2.to_k.lora_magnitude_vector": (640,),
        },
        "peft",
        "dora",
        768,
        "sd15",
    ),
    "LoHa": (
        {
            f"{KOHYA}.hada_w1_a": (640, 4),
            f"{KOHYA}.hada_w1_b": (4, 768),
            f"{KOHYA}.hada_w2_a": (640, 4),
            f"{KOHYA}.hada_w2_b": (4, 768),
        },
        "kohya",
        "loha",
        768,
        "sd15",
    ),
    "LoKr": (
        {f"{KOHYA}.lokr_w1": (20, 32), f"{KOHYA}.lokr_w2_a": (32, 4), f"{KOHYA}.lokr_w2_b": (4, 64)},
        "kohya",
        "lokr",
        2048,
        "sdxl",
    ),
    "LoKr, both factored": (
        {
            f"{KOHYA}.lokr_w1_a": (20, 2),
            f"{KOHYA}.lokr_w1_b": (2, 24),
            f"{KOHYA}.lokr_w2": (32, 32),
        },
        "kohya",
        "lokr",
        768,
        "sd15",
    ),
}


@pytest.mark.parametrize(("shapes", "layout", "algorithm", "width", "family"), LORAS.values(), ids=LORAS)
def test_a_loras_naming_algorithm_and_width_are_detected(
    tmp_path: Path,
    shapes: dict[str, tuple[int, ...]],
    layout: str,
    algorithm: str,
    width: int | None,
    family: str | None,
) -> None:
    description = describe(save_header(tmp_path / "a.safetensors", shapes))
    assert (description.kind, description.layout, description.algorithm) == ("lora", layout, algorithm)
    assert (description.cross_attention_dim, description.family) == (width, family)


EMBEDDINGS = {
    "A1111": ({"emb_params": (3, 768)}, "a1111", "sd15", 768),
    "A1111 of a .pt": ({"string_to_param.*": (2, 1024)}, "a1111", "sd2", 1024),
    "SDXL": ({"clip_l": (8, 768), "clip_g": (8, 1280)}, "clip_l and clip_g", "sdxl", 2048),
    "diffusers": ({"<cat-toy>": (1, 768)}, "diffusers", "sd15", 768),
    "diffusers, one vector": ({"<cat-toy>": (768,)}, "diffusers", "sd15", 768),
    "tiny": ({"emb_params": (3, 32)}, "a1111", None, 32),
}


@pytest.mark.parametrize(("shapes", "layout", "family", "width"), EMBEDDINGS.values(), ids=EMBEDDINGS)
def test_an_embeddings_layout_and_width_are_detected(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], layout: str, family: str | None, width: int
) -> None:
    description = describe(save_header(tmp_path / "a.safetensors", shapes))
    assert (description.kind, description.layout, description.family, description.cross_attention_dim) == (
        "embedding",
        layout,
        family,
        width,
    )


UPSCALERS = {
    "esrgan-old": {"model.0.weight": (64, 3, 3, 3), "model.1.sub.0.RDB1.conv1.0.weight": (32, 64, 3, 3)},
    "esrgan": {"conv_first.weight": (64, 3, 3, 3), "body.0.rdb1.conv1.weight": (32, 64, 3, 3)},
    "swinir": {
        "conv_first.weight": (180, 3, 3, 3),
        "layers.0.residual_group.blocks.0.attn.qkv.weight": (540, 180),
    },
    "compact": {"body.0.weight": (64, 3, 3, 3), "body.1.weight": (64,), "body.2.weight": (64, 64, 3, 3)},
}


@pytest.mark.parametrize(("layout", "shapes"), UPSCALERS.items(), ids=UPSCALERS)
def test_an_upscalers_architecture_is_detected(tmp_path: Path, layout: str, shapes: dict[str, tuple[int, ...]]) -> None:
    description = describe(save_header(tmp_path / "a.safetensors", shapes))
    assert (description.kind, description.layout, description.family) == ("upscaler", layout, None)


@pytest.mark.parametrize(
    ("shapes", "kind"),
    [
        (LORAS["DoRA"][0], "a LoRA"),
        (EMBEDDINGS["SDXL"][0], "an embedding"),
        (UPSCALERS["esrgan"], "an upscaler"),
    ],
)
def test_an_addon_is_not_accepted_as_a_checkpoint(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], kind: str
) -> None:
    path = save_header(tmp_path / "a.safetensors", shapes)
    with pytest.raises(ModelLoadError, match=f"is not a checkpoint but {kind}: name a checkpoint to draw with"):
        architecture(path)
