"""A random LoRA for every linear layer and convolution of a pipeline, under the names of each program."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.layouts import _unet_name

RANK, ALPHA = 4, 1.0
NETWORKS = ("unet", "text_encoder", "text_encoder_2")
State = dict[str, Tensor]
Layer = tuple[str, str]


@dataclass
class Lora:
    """Matrices by network and module; the names of text encoders' modules begin with ``text_model.``."""

    pipe: Any
    matrices: dict[Layer, tuple[Tensor, Tensor]]

    def only(self, *networks: str) -> Lora:
        kept = {layer: pair for layer, pair in self.matrices.items() if layer[0] in networks}
        return Lora(self.pipe, kept)

    def deltas(self, scale: float = 1.0) -> dict[Layer, Tensor]:
        return {
            layer: (up.float().flatten(1) @ down.float().flatten(1)).reshape(len(up), *down.shape[1:]) * scale
            for layer, (down, up) in self.matrices.items()
        }


def random_lora(pipe: Any, seed: int = 0) -> Lora:
    generator = torch.Generator().manual_seed(seed)
    matrices = {}
    for layer, module in layers_of(pipe).items():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            out, *rest = module.weight.shape
            down = torch.randn(RANK, *rest, generator=generator) / 8
            matrices[layer] = (down, torch.randn(out, RANK, *(1 for _ in rest[1:]), generator=generator) / 8)
    return Lora(pipe, matrices)


def layers_of(pipe: Any) -> dict[Layer, Any]:
    """The modules with their own parameters, under the programs' names for any version of transformers."""
    return {
        (network, _nested(network, name)): module
        for network in NETWORKS
        if getattr(pipe, network, None) is not None
        for name, module in getattr(pipe, network).named_modules()
        if any(True for _ in module.parameters(recurse=False))
    }


def _nested(network: str, name: str) -> str:
    if network == "unet" or name.startswith(("text_model.", "text_projection")):
        return name
    return f"text_model.{name}"


def ldm_name(pipe: Any, module: str) -> str:
    """The original code's name for a UNet layer."""
    weight = f"{module}.weight"
    return _unet_name(weight, pipe.unet.config.layers_per_block, pipe.unet).removesuffix(".weight")


def _joined(prefix: str, module: str) -> str:
    return f"{prefix}_{module.replace('.', '_')}"


def kohya_name(pipe: Any, layer: Layer) -> str:
    first = "lora_te1" if hasattr(pipe, "text_encoder_2") else "lora_te"
    return _joined({"unet": "lora_unet", "text_encoder": first, "text_encoder_2": "lora_te2"}[layer[0]], layer[1])


def _with_alphas(lora: Lora, name: Any, down: str = "lora_down.weight", up: str = "lora_up.weight") -> State:
    state = {}
    for layer, (a, b) in lora.matrices.items():
        state |= {f"{name(layer)}.{down}": a, f"{name(layer)}.{up}": b, f"{name(layer)}.alpha": torch.tensor(ALPHA)}
    return state


def _plain(lora: Lora, name: Any, down: str = "lora_A.weight", up: str = "lora_B.weight") -> State:
    pairs = lora.matrices.items()
    return {f"{name(layer)}.{end}": m for layer, pair in pairs for end, m in zip((down, up), pair, strict=True)}


def kohya(lora: Lora) -> State:
    return _with_alphas(lora, lambda layer: kohya_name(lora.pipe, layer))


def kohya_by_ldm_names(lora: Lora) -> State:
    def name(layer: Layer) -> str:
        if layer[0] != "unet":
            return kohya_name(lora.pipe, layer)
        return _joined("lora_unet", ldm_name(lora.pipe, layer[1]))

    return _with_alphas(lora, name)


def diffusers(lora: Lora) -> State:
    return _plain(lora, ".".join)


def old_diffusers(lora: Lora) -> State:
    return _plain(lora, ".".join, "lora.down.weight", "lora.up.weight")


def processors(lora: Lora) -> State:
    """The oldest format: the UNet's attention processors without a prefix, and text encoders' attention."""
    state = {}
    short = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out", "to_out.0": "to_out"}
    for (network, module), (down, up) in lora.matrices.items():
        match = re.fullmatch(r"(.*(?:attn\d|self_attn))\.(to_[qkv]|to_out\.0|(?:q|k|v|out)_proj)", module)
        if match is None:
            continue
        name = f"{match[1]}.processor" if network == "unet" else f"{network}.{match[1]}"
        name += f".{short.get(match[2], match[2])}_lora"
        state |= {f"{name}.down.weight": down, f"{name}.up.weight": up}
    return state


def text_linear_layers(lora: Lora) -> State:
    return _plain(lora.only("text_encoder"), ".".join, "lora_linear_layer.down.weight", "lora_linear_layer.up.weight")


def peft(lora: Lora) -> State:
    return _plain(lora.only("unet"), lambda layer: f"base_model.model.{layer[1]}")


def peft_with_an_adapters_name(lora: Lora) -> State:
    name = lambda layer: f"base_model.model.{layer[1]}"  # noqa: E731
    return _plain(lora.only("unet"), name, "lora_A.default.weight", "lora_B.default.weight")


def bare(lora: Lora) -> State:
    return _plain(lora.only("unet"), lambda layer: layer[1])


def onetrainer_by_dots(lora: Lora) -> State:
    names = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
    return _with_alphas(lora, lambda layer: f"{names.get(layer[0], layer[0])}.{layer[1]}")


def comfyui(lora: Lora) -> State:
    clips = {"text_encoder": "text_encoders.clip_l.transformer", "text_encoder_2": "text_encoders.clip_g.transformer"}

    def name(layer: Layer) -> str:
        network, module = layer
        return f"diffusion_model.{ldm_name(lora.pipe, module)}" if network == "unet" else f"{clips[network]}.{module}"

    return _with_alphas(lora, name)


def lycoris(lora: Lora) -> State:
    return _with_alphas(lora.only("unet"), lambda layer: _joined("lycoris", layer[1]))


DIALECTS = {
    "kohya": kohya,
    "kohya by LDM's names": kohya_by_ldm_names,
    "diffusers": diffusers,
    "old diffusers": old_diffusers,
    "attention processors": processors,
    "text encoders' linear layers": text_linear_layers,
    "PEFT": peft,
    "PEFT with an adapter's name": peft_with_an_adapters_name,
    "bare names": bare,
    "OneTrainer by dots": onetrainer_by_dots,
    "ComfyUI": comfyui,
    "lycoris": lycoris,
}


def with_deltas(deltas: Mapping[Layer, Tensor], pipe: Any, parameter: str = "weight") -> Any:
    """Add changes to the weights of a pipeline."""
    modules = layers_of(pipe)
    for layer, delta in deltas.items():
        tensor = getattr(modules[layer], parameter).data
        tensor += delta.reshape(tensor.shape).to(tensor)
    return pipe
