"""LoRAs of every kind, merged into a second network: torch's pictures, and no trace afterwards."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import save_file

from imagegen_core.styles import LoraUse
from tests.loras import as_kohya, random_lora, save
from tests.openvino.conftest import Pair, difference, draw

_LAYERS = ["to_q", "ff.net.2", "proj_in", "conv1", "conv_shortcut"]
KINDS: dict[str, Any] = {
    "LoRA": peft.LoraConfig(r=4, lora_alpha=6, target_modules=_LAYERS),
    "with biases": peft.LoraConfig(r=4, lora_alpha=2, target_modules=["ff.net.2", "conv1"], lora_bias=True),
    "DoRA": peft.LoraConfig(r=4, lora_alpha=2, target_modules=_LAYERS, use_dora=True),
    "whole modules": peft.LoraConfig(r=4, lora_alpha=2, target_modules=["to_q"], modules_to_save=["conv_in"]),
    "LoHa": peft.LoHaConfig(r=4, alpha=2, target_modules=_LAYERS),
    "LoKr": peft.LoKrConfig(r=4, alpha=2, target_modules=_LAYERS),
}


def _assert_draws(pair: Pair, *loras: LoraUse) -> None:
    bare = draw(pair.ours)
    drawn, expected = (draw(worker, loras) for worker in (pair.ours, pair.theirs))
    assert difference(drawn, expected) <= 1
    assert difference(expected, bare) > 2, "the LoRA changes almost nothing"
    assert draw(pair.ours) == bare
    assert draw(pair.ours, loras) == drawn


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_a_lora_draws_the_torch_backends_picture(pair: Pair, tmp_path: Path, kind: str) -> None:
    tuned = peft.get_peft_model(copy.deepcopy(pair.theirs.pipe.unet), copy.deepcopy(KINDS[kind]))
    torch.manual_seed(4)
    for name, parameter in tuned.named_parameters():
        if parameter.requires_grad:
            is_scaled = "magnitude" in name or "modules_to_save" in name
            spread = 0.4 if "hada" in name else 0.12
            parameter.data = parameter.data * 1.2 if is_scaled else torch.randn_like(parameter) * spread
    tuned.save_pretrained(tmp_path)
    _assert_draws(pair, LoraUse(tmp_path / "adapter_model.safetensors", 0.8, "tried"))


def test_loras_of_unet_and_text_encoders_add_up(pair: Pair, tmp_path: Path) -> None:
    loras = [
        LoraUse(
            save(as_kohya(random_lora(copy.deepcopy(pair.theirs.pipe), seed=seed)), tmp_path / f"{seed}.safetensors"),
            0.7,
            f"{seed}",
        )
        for seed in range(2)
    ]
    _assert_draws(pair, *loras)
    drawn = [draw(pair.ours, chosen) for chosen in (loras[:1], loras[1:], loras, loras[:1])]
    assert drawn[0] == drawn[3]
    assert len({picture.png for picture in drawn}) == 3


@pytest.mark.parametrize(("suffix", "module"), [("weight", "conv_norm_out"), ("bias", "conv_in")])
def test_differences_of_norms_and_biases_are_merged(pair: Pair, tmp_path: Path, suffix: str, module: str) -> None:
    parameter = getattr(pair.theirs.pipe.unet.get_submodule(module), suffix)
    name = {"weight": "diff", "bias": "diff_b"}[suffix]
    change = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    state = {f"lora_unet_{module}.{name}": change, "lora_unet_conv_out.diff": torch.zeros(4, 32, 3, 3)}
    save_file(state, tmp_path / "lora.safetensors")
    _assert_draws(pair, LoraUse(tmp_path / "lora.safetensors", 1.0, "tried"))
