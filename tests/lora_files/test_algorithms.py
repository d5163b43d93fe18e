"""Every supported algorithm, in files from LyCORIS and PEFT, compared with their own results."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor

from tests.lora_files.conftest import Family
from tests.lora_files.dialects import layers_of, with_deltas

Save = Callable[..., Path]
State = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)  # LyCORIS logs each module
    yield
    logging.disable(logging.NOTSET)


def _lycoris(network: Any, algorithm: str, **options: Any) -> tuple[Any, State]:
    """A LyCORIS network with random values over `network`, and its saved state."""
    from lycoris import LycorisNetwork, create_lycoris

    LycorisNetwork.apply_preset({"target_name": [".*"]})
    options = {"linear_dim": 4, "linear_alpha": 2.0, "conv_dim": 4, "conv_alpha": 2.0, "factor": 4, **options}
    lycoris = create_lycoris(network, 1.0, algo=algorithm, **options)
    lycoris.apply_to()
    torch.manual_seed(3)
    for name, parameter in lycoris.named_parameters():
        spread = 0.02 if "diff" in name or "norm" in name else 0.5 if "hada" in name else 0.15
        parameter.data = parameter.data * 1.3 if "dora_scale" in name else torch.randn_like(parameter) * spread
    return lycoris.eval(), {name: tensor.detach() for name, tensor in lycoris.state_dict().items()}


LYCORIS: dict[str, tuple[str, dict[str, Any]]] = {
    "LoCon": ("locon", {}),
    "LoCon with a Tucker core": ("locon", {"use_tucker": True}),
    "rank-stabilized": ("locon", {"rs_lora": True}),
    "with a scalar": ("locon", {"use_scalar": True}),
    "LoHa": ("loha", {}),
    "LoHa with Tucker cores": ("loha", {"use_tucker": True}),
    "LoKr": ("lokr", {}),
    "LoKr with a Tucker core": ("lokr", {"use_tucker": True}),
    "LoKr of two products": ("lokr", {"decompose_both": True}),
    "LoKr of whole factors": ("lokr", {"full_matrix": True}),
    "full": ("full", {}),
    "norms": ("locon", {"train_norm": True}),
    "DoRA": ("locon", {"dora_wd": True}),
    "DoRA by inputs": ("locon", {"dora_wd": True, "wd_on_output": False}),
    "DoRA of LoHa": ("loha", {"dora_wd": True}),
    "DoRA of LoKr by inputs": ("lokr", {"dora_wd": True, "wd_on_output": False}),
}


@pytest.mark.parametrize("kind", LYCORIS)
@pytest.mark.filterwarnings("ignore")
def test_a_lycoris_file_draws_the_picture_of_the_lycoris_network(family: Family, save: Save, kind: str) -> None:
    algorithm, options = LYCORIS[kind]
    pipe = family.pipe()
    _network, state = _lycoris(pipe.unet, algorithm, **options)
    family.assert_draws(save(state), pipe)


def test_a_dora_at_half_strength_makes_half_the_difference(family: Family, save: Save) -> None:
    """A1111's and ComfyUI's rule: the strength multiplies the DoRA's difference."""
    pipe = family.pipe()
    before = copy.deepcopy(pipe.unet.state_dict())
    lycoris, state = _lycoris(pipe.unet, "locon", dora_wd=True)
    lycoris.restore()
    lycoris.merge_to(1.0)
    half = {name: (before[name] + weight) / 2 for name, weight in pipe.unet.state_dict().items()}
    pipe.unet.load_state_dict(half)
    family.assert_draws(save(state), pipe, strength=0.5)


LINEAR = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]
CONVOLUTIONS = ["conv1", "conv2", "conv_shortcut", "conv_in", "conv_out"]
BOTH = [*LINEAR, *CONVOLUTIONS]
BIASED = ["proj_in", "ff.net.2", "to_out.0", *CONVOLUTIONS]
PEFT: dict[str, Any] = {
    "LoRA": peft.LoraConfig(r=4, lora_alpha=6, target_modules=BOTH),
    "rank-stabilized": peft.LoraConfig(r=4, lora_alpha=2, target_modules=BOTH, use_rslora=True),
    "by patterns": peft.LoraConfig(
        r=4, lora_alpha=2, target_modules=BOTH, rank_pattern={"conv1": 2}, alpha_pattern={"to_q": 8, "conv1": 1}
    ),
    "with biases": peft.LoraConfig(r=4, lora_alpha=2, target_modules=BIASED, lora_bias=True),
    "DoRA": peft.LoraConfig(r=4, lora_alpha=2, target_modules=BOTH, use_dora=True),
    "whole modules": peft.LoraConfig(r=4, lora_alpha=2, target_modules=LINEAR, modules_to_save=["conv_in", "conv_out"]),
    "the layers' own biases": peft.LoraConfig(r=4, lora_alpha=2, target_modules=BOTH, bias="lora_only"),
    "LoHa": peft.LoHaConfig(r=4, alpha=2, target_modules=BOTH),
    "LoHa with cores": peft.LoHaConfig(r=4, alpha=2, target_modules=BOTH, use_effective_conv2d=True),
    "LoKr": peft.LoKrConfig(r=4, alpha=2, target_modules=BOTH),
    "LoKr with cores": peft.LoKrConfig(r=4, alpha=2, target_modules=BOTH, use_effective_conv2d=True),
    "LoKr of two products": peft.LoKrConfig(r=2, alpha=2, target_modules=BOTH, decompose_both=True),
}


@pytest.mark.parametrize("kind", PEFT)
@pytest.mark.filterwarnings("ignore")
def test_a_peft_folder_draws_the_picture_of_the_merged_network(family: Family, tmp_path: Path, kind: str) -> None:
    pipe = family.pipe()
    tuned = peft.get_peft_model(pipe.unet, copy.deepcopy(PEFT[kind]))
    torch.manual_seed(4)
    for name, parameter in tuned.named_parameters():
        if not parameter.requires_grad:
            continue
        is_scaled = "magnitude" in name or "modules_to_save" in name
        spread = 0.4 if "hada" in name else 0.12
        parameter.data = parameter.data * 1.2 if is_scaled else torch.randn_like(parameter) * spread
    tuned.save_pretrained(tmp_path)
    pipe.unet = tuned.merge_and_unload()
    family.assert_draws(tmp_path / "adapter_model.safetensors", pipe)


def test_a_dora_saved_by_diffusers_is_drawn(family: Family, tmp_path: Path) -> None:
    pipe = family.pipe()
    pipe.unet.add_adapter(peft.LoraConfig(r=4, lora_alpha=6, target_modules=BOTH, use_dora=True))
    torch.manual_seed(5)
    for name, parameter in pipe.unet.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data * 1.2 if "magnitude" in name else torch.randn_like(parameter) * 0.12
    pipe.unet.save_lora_adapter(tmp_path, adapter_name="default")
    family.assert_draws(tmp_path / "pytorch_lora_weights.safetensors", pipe)


@pytest.mark.parametrize("names", ["kohya", "diffusers", "PEFT"])
def test_whole_weights_replace_a_layer_while_the_lora_is_active(family: Family, save: Save, names: str) -> None:
    prefix = {"kohya": "lora_unet_", "diffusers": "unet.", "PEFT": "base_model.model."}[names]
    weight, bias = family.plain.unet.conv_in.weight.data, family.plain.unet.conv_in.bias.data
    state = {f"{prefix}conv_in.weight": weight * 1.5, f"{prefix}conv_in.bias": bias + 0.1}
    state |= {f"{prefix}conv_out.lora_A.weight": torch.zeros(4, 32, 3, 3)}  # otherwise the file could be a checkpoint
    path = save(state | {f"{prefix}conv_out.lora_B.weight": torch.zeros(4, 4, 1, 1)})
    deltas = {("unet", "conv_in"): weight * 0.5}
    pipe = with_deltas(deltas, family.pipe())
    pipe.unet.conv_in.bias.data += 0.1
    family.assert_draws(path, pipe)


def test_differences_are_added_unscaled(family: Family, save: Save) -> None:
    """Differences of weights, biases, norms and embedding tables in all networks; alpha does not affect them."""
    state: State = {}
    pipe = family.pipe()
    generator = torch.Generator().manual_seed(6)
    for (network, name), module in layers_of(pipe).items():
        prefix = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}[network]
        key = f"{prefix}_{name.replace('.', '_')}"
        is_norm = isinstance(module, torch.nn.LayerNorm | torch.nn.GroupNorm)
        for parameter, end in (
            ("weight", "w_norm" if is_norm else "diff"),
            ("bias", "b_norm" if is_norm else "diff_b"),
        ):
            tensor = getattr(module, parameter, None)
            if tensor is not None:
                state[f"{key}.{end}"] = torch.randn(tensor.shape, generator=generator) * 0.03
                tensor.data += state[f"{key}.{end}"]
        state[f"{key}.alpha"] = torch.tensor(0.5)
    family.assert_draws(save(state), pipe)


def test_a_loras_embeddings_apply_while_the_lora_is_active(family: Family, save: Save) -> None:
    """OneTrainer's bundled embeddings, compared with the plain pipeline's textual inversions."""
    generator = torch.Generator().manual_seed(7)
    state, pipe = {}, family.pipe()
    pipe.tokenizer = copy.deepcopy(pipe.tokenizer)
    vectors = {
        "clip_l": torch.randn(2, pipe.text_encoder.config.hidden_size, generator=generator),
        "clip_g": torch.randn(2, 32, generator=generator),
    }
    if family.name == "sdxl":
        pipe.tokenizer_2 = copy.deepcopy(pipe.tokenizer_2)
        state = {f"bundle_emb.quirk.{part}": tensor for part, tensor in vectors.items()}
        pipe.load_textual_inversion(vectors["clip_g"], "quirk", pipe.tokenizer_2, pipe.text_encoder_2)
    else:
        state = {"bundle_emb.quirk.string_to_param.*": vectors["clip_l"]}
    pipe.load_textual_inversion(vectors["clip_l"], "quirk", pipe.tokenizer, pipe.text_encoder)
    weight = family.plain.unet.conv_in.weight
    path = save(state | {"lora_unet_conv_in.diff": weight * 0.1})
    changed = with_deltas({("unet", "conv_in"): weight.data * 0.1}, pipe)
    plain_word = family.draw(prompt="a quirk lake")
    family.assert_draws(path, changed, prompt="a quirk lake")
    assert family.draw(prompt="a quirk lake") == plain_word
