"""LoRAs under the names of every program, compared with changes merged by hand into plain diffusers' weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.lora_files.conftest import Family
from tests.lora_files.dialects import ALPHA, DIALECTS, RANK, Lora, kohya, kohya_name, peft, random_lora, with_deltas

Save = Callable[..., Path]
_WITH_ALPHA = {"kohya", "kohya by LDM's names", "OneTrainer by dots", "ComfyUI", "lycoris"}


def _layers_in_file(dialect: str, lora: Lora) -> Lora:
    """The LoRA with only the layers in a dialect's file."""
    matrices = {id(matrix) for matrix in DIALECTS[dialect](lora).values()}
    return Lora(lora.pipe, {layer: pair for layer, pair in lora.matrices.items() if id(pair[0]) in matrices})


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_layer_has_its_intended_strength(family: Family, save: Save, dialect: str) -> None:
    lora = random_lora(family.plain)
    scale = ALPHA / RANK if dialect in _WITH_ALPHA else 1.0
    deltas = _layers_in_file(dialect, lora).deltas(scale)
    family.assert_draws(save(DIALECTS[dialect](lora)), with_deltas(deltas, family.pipe()))


@pytest.mark.parametrize("strength", [-0.5, 0.3, 2.0])
def test_strengths_multiply_the_change(family: Family, save: Save, strength: float) -> None:
    lora = random_lora(family.plain)
    deltas = lora.deltas(ALPHA / RANK * strength)
    family.assert_draws(save(kohya(lora)), with_deltas(deltas, family.pipe()), strength)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float16])
def test_a_file_in_another_precision_keeps_its_values(family: Family, save: Save, dtype: torch.dtype) -> None:
    lora = random_lora(family.plain)
    lora.matrices = {layer: (a.to(dtype), b.to(dtype)) for layer, (a, b) in lora.matrices.items()}
    family.assert_draws(save(kohya(lora)), with_deltas(lora.deltas(ALPHA / RANK), family.pipe()))


@pytest.mark.parametrize("alpha", [torch.tensor(3), torch.tensor([3.0]), torch.tensor(3.0, dtype=torch.bfloat16)])
def test_alphas_of_any_dtype_and_shape_are_applied(family: Family, save: Save, alpha: torch.Tensor) -> None:
    lora = random_lora(family.plain)
    state = {name: alpha if name.endswith(".alpha") else tensor for name, tensor in kohya(lora).items()}
    family.assert_draws(save(state), with_deltas(lora.deltas(3 / RANK), family.pipe()))


def test_ranks_may_differ_by_layer(family: Family, save: Save) -> None:
    lora = random_lora(family.plain)
    lora.matrices = {
        layer: (a[:2], b[:, :2]) if number % 3 else (a, b)
        for number, (layer, (a, b)) in enumerate(lora.matrices.items())
    }
    deltas = {layer: delta * ALPHA / len(lora.matrices[layer][0]) for layer, delta in lora.deltas().items()}
    family.assert_draws(save(kohya(lora)), with_deltas(deltas, family.pipe()))


def test_linear_layers_and_pointwise_convolutions_are_interchangeable(family: Family, save: Save) -> None:
    lora = random_lora(family.plain).only("unet")
    state = {name: tensor[:, :, None, None] if tensor.ndim == 2 else tensor for name, tensor in kohya(lora).items()}
    family.assert_draws(save(state), with_deltas(lora.deltas(ALPHA / RANK), family.pipe()))


def test_settings_in_a_files_metadata_are_applied(family: Family, save: Save) -> None:
    lora = random_lora(family.plain)
    settings: dict[str, Any] = {}
    for network in ("unet", "text_encoder", "text_encoder_2"):
        settings |= {f"{network}.r": RANK, f"{network}.lora_alpha": 8, f"{network}.alpha_pattern": {"conv1": 2}}
    path = save(DIALECTS["diffusers"](lora), metadata={"lora_adapter_metadata": json.dumps(settings)})
    deltas = {layer: delta * (2 if layer[1].endswith("conv1") else 8) / RANK for layer, delta in lora.deltas().items()}
    family.assert_draws(path, with_deltas(deltas, family.pipe()))


@pytest.mark.parametrize("rank_stabilized", [False, True])
def test_settings_in_pefts_adapter_config_are_applied(family: Family, save: Save, rank_stabilized: bool) -> None:
    lora = random_lora(family.plain).only("unet")
    path = save(peft(lora), "adapter_model")
    settings = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": 2,
        "use_rslora": rank_stabilized,
        "rank_pattern": {"conv1": RANK},
        "alpha_pattern": {"^mid_block\\.resnets\\.0\\.conv1$": 3, "conv_in": 1},
    }
    (path.parent / "adapter_config.json").write_text(json.dumps(settings))
    alphas = {"mid_block.resnets.0.conv1": 3, "conv_in": 1}
    divisor = RANK**0.5 if rank_stabilized else RANK
    deltas = {layer: delta * alphas.get(layer[1], 2) / divisor for layer, delta in lora.deltas().items()}
    family.assert_draws(path, with_deltas(deltas, family.pipe()))


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".bin", ".SAFETENSORS"])
def test_the_suffix_does_not_matter(family: Family, save: Save, tmp_path: Path, suffix: str) -> None:
    lora = random_lora(family.plain)
    path = save(kohya(lora)).rename(tmp_path / f"named{suffix}")
    if suffix != ".SAFETENSORS":
        torch.save(kohya(lora), path)
    family.assert_draws(path, with_deltas(lora.deltas(ALPHA / RANK), family.pipe()))


def test_a_bias_of_the_up_matrix_is_scaled_with_it(family: Family, save: Save) -> None:
    lora = random_lora(family.plain).only("unet")
    biased = [layer for layer, pair in lora.matrices.items() if _has_bias(family, layer)]
    biases = {layer: torch.linspace(-1, 1, len(lora.matrices[layer][1])) for layer in biased}
    state = DIALECTS["diffusers"](lora) | {f"{'.'.join(layer)}.lora_B.bias": bias for layer, bias in biases.items()}
    pipe = with_deltas(biases, with_deltas(lora.deltas(), family.pipe()), "bias")
    family.assert_draws(save(state), pipe)


def test_a_lora_may_change_the_second_encoders_projection(family: Family, save: Save) -> None:
    if family.name == "sd15":
        return
    lora = random_lora(family.plain).only("text_encoder_2")
    lora.matrices = {layer: (8 * down, up) for layer, (down, up) in lora.matrices.items()}  # too small otherwise
    names = {kohya_name(family.plain, layer) for layer in lora.matrices}
    assert "lora_te2_text_projection" in names
    family.assert_draws(save(kohya(lora)), with_deltas(lora.deltas(ALPHA / RANK), family.pipe()))


def _has_bias(family: Family, layer: tuple[str, str]) -> bool:
    return getattr(family.plain, layer[0]).get_submodule(layer[1]).bias is not None
