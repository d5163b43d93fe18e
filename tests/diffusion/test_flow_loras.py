"""LoRAs of Stable Diffusion 3 and FLUX.1, in diffusers', kohya-ss's and the original names, change the same layers.

diffusers converts kohya-ss's names for FLUX.1's own size alone, so here the changes are merged by hand.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from imagegen_core import GenerateRequest, InvalidRequestError, Job, Picture, Settings
from imagegen_core.models.headers import read_header
from imagegen_core.models.inspect import describe
from imagegen_core.models.loras.checkpoint_layers import CheckpointLayers
from imagegen_core.models.loras.plan import plan_lora
from imagegen_core.styles import LoraUse
from imagegen_flux import FluxWorker
from imagegen_sd3 import StableDiffusion3Worker

RANK, ALPHA = 4, 2.0
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj"]
# Layers of the original code, with the layers that they hold in diffusers; the last is in the other order there.
SD3 = {
    "joint_blocks.0.x_block.attn.qkv": [f"transformer_blocks.0.attn.to_{letter}" for letter in "qkv"],
    "joint_blocks.0.context_block.attn.qkv": [f"transformer_blocks.0.attn.add_{letter}_proj" for letter in "qkv"],
    "joint_blocks.1.x_block.attn.proj": ["transformer_blocks.1.attn.to_out.0"],
    "joint_blocks.0.x_block.mlp.fc1": ["transformer_blocks.0.ff.net.0.proj"],
    "joint_blocks.0.context_block.adaLN_modulation.1": ["transformer_blocks.0.norm1_context.linear"],
    "y_embedder.mlp.0": ["time_text_embed.text_embedder.linear_1"],
    "final_layer.adaLN_modulation.1": ["norm_out.linear"],
}
FLUX = {
    "double_blocks.0.img_attn.qkv": [f"transformer_blocks.0.attn.to_{letter}" for letter in "qkv"],
    "double_blocks.0.txt_mlp.2": ["transformer_blocks.0.ff_context.net.2"],
    "single_blocks.1.linear1": [
        *(f"single_transformer_blocks.1.attn.to_{letter}" for letter in "qkv"),
        "single_transformer_blocks.1.proj_mlp",
    ],
    "single_blocks.0.linear2": ["single_transformer_blocks.0.proj_out"],
    "guidance_in.in_layer": ["time_text_embed.guidance_embedder.linear_1"],
    "final_layer.adaLN_modulation.1": ["norm_out.linear"],
}
TEXT = "text_model.encoder.layers.0.self_attn.q_proj"
T5 = "encoder.block.0.layer.0.SelfAttention.q"


@dataclass
class Family:
    """A checkpoint with our worker, the plain pipeline and the original names of some layers."""

    worker: Any
    plain: Any
    names: Mapping[str, Sequence[str]]
    t5: str

    def draw(self, *loras: Path) -> Picture:
        request = GenerateRequest(prompt="a lake", seed=1, size="64x64", num_inference_steps=2, guidance_scale=3.0)
        request = request.with_loras(LoraUse(path, 1.0, "tried") for path in loras)
        return Picture(*self.worker.run_job_with_latents(Job(req=request)))

    def draw_plain(self, pipe: Any) -> Any:
        length = {} if self.t5 == "text_encoder_3" else {"max_sequence_length": 512}
        options = {"num_inference_steps": 2, "guidance_scale": 3.0, "width": 64, "height": 64, **length}
        return pipe("a lake", generator=torch.Generator("cpu").manual_seed(1), **options).images[0]

    def pipe(self) -> Any:
        """Copy the plain pipeline, so that a test can change it."""
        changed = copy.copy(self.plain)
        for network in ("transformer", "text_encoder", self.t5):
            setattr(changed, network, copy.deepcopy(getattr(self.plain, network)))
        return changed


@pytest.fixture(scope="module", params=["sd3", "flux"])
def family(request: pytest.FixtureRequest) -> Family:
    folder = request.getfixturevalue(f"{request.param}_checkpoint")
    is_sd3 = request.param == "sd3"
    kind = diffusers.StableDiffusion3Pipeline if is_sd3 else diffusers.FluxPipeline
    plain = kind.from_pretrained(folder, local_files_only=True)
    plain.set_progress_bar_config(disable=True)
    settings = Settings(model=str(folder), device="cpu", dtype="fp32")
    worker = (StableDiffusion3Worker if is_sd3 else FluxWorker)(settings=settings)
    return Family(worker, plain, SD3 if is_sd3 else FLUX, "text_encoder_3" if is_sd3 else "text_encoder_2")


def test_diffusers_names(family: Family, tmp_path: Path) -> None:
    pipe = family.pipe()
    torch.manual_seed(0)
    pipe.transformer.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=ATTENTION, init_lora_weights=False))
    state = {f"transformer.{name}": value for name, value in get_peft_model_state_dict(pipe.transformer).items()}
    save_file(state, tmp_path / "lora.safetensors")
    plain = family.pipe()
    plain.load_lora_weights(tmp_path / "lora.safetensors")

    _assert_drawn(family, family.draw(tmp_path / "lora.safetensors"), family.draw_plain(plain))


NAMINGS = {
    "kohya-ss": ("lora_unet_{kohya}", "lora_down.weight", "lora_up.weight"),
    "original": ("diffusion_model.{original}", "lora_A.weight", "lora_B.weight"),
    "peft": ("base_model.model.{original}", "lora_A.weight", "lora_B.weight"),
}


@pytest.mark.parametrize("naming", NAMINGS)
def test_original_names(family: Family, naming: str, tmp_path: Path) -> None:
    form, down_name, up_name = NAMINGS[naming]
    pipe, state = family.pipe(), {}
    generator = torch.Generator().manual_seed(0)
    for original, modules in family.names.items():
        layers = [pipe.transformer.get_submodule(module) for module in modules]
        rows, columns = sum(layer.out_features for layer in layers), layers[0].in_features
        down, up = (torch.randn(shape, generator=generator) for shape in ((RANK, columns), (rows, RANK)))
        key = form.format(original=original, kohya=original.replace(".", "_"))
        state |= {f"{key}.{down_name}": down, f"{key}.{up_name}": up, f"{key}.alpha": torch.tensor(ALPHA)}
        change = up @ down * (ALPHA / RANK)
        if original.startswith("final_layer.adaLN"):
            change = torch.cat(change.chunk(2)[::-1])
        for layer, part in zip(layers, change.split([layer.out_features for layer in layers]), strict=True):
            layer.weight.data += part
    save_file(state, tmp_path / "lora.safetensors")

    _assert_drawn(family, family.draw(tmp_path / "lora.safetensors"), family.draw_plain(pipe))


@pytest.mark.parametrize(
    "prefixes", [("lora_te1_", "lora_te3_"), ("text_encoders.clip_l.transformer.", "text_encoders.t5xxl.transformer.")]
)
def test_text_encoders(family: Family, prefixes: tuple[str, str], tmp_path: Path) -> None:
    pipe, state = family.pipe(), {}
    generator = torch.Generator().manual_seed(0)
    for prefix, network, module in zip(prefixes, ("text_encoder", family.t5), (TEXT, T5), strict=True):
        modules = dict(getattr(pipe, network).named_modules())
        layer = modules.get(module) or modules[module.removeprefix("text_model.")]
        down = torch.randn((RANK, layer.in_features), generator=generator)
        up = torch.randn((layer.out_features, RANK), generator=generator)
        key = prefix + (module.replace(".", "_") if prefix.endswith("_") else module)
        state |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
        layer.weight.data += up @ down
    save_file(state, tmp_path / "lora.safetensors")

    _assert_drawn(family, family.draw(tmp_path / "lora.safetensors"), family.draw_plain(pipe))


def test_a_lora_leaves_no_trace(family: Family, tmp_path: Path) -> None:
    before = family.draw()
    family.draw(_plain_lora(family, tmp_path))
    assert family.draw() == before


def test_another_algorithm_for_several_layers_is_refused(family: Family, tmp_path: Path) -> None:
    original, modules = next(iter(family.names.items()))
    layers = [family.plain.transformer.get_submodule(module) for module in modules]
    rows, columns = sum(layer.out_features for layer in layers), layers[0].in_features
    key = f"lora_unet_{original.replace('.', '_')}"
    state = {f"{key}.hada_w{n}_a": torch.ones(rows, 2) for n in (1, 2)}
    state |= {f"{key}.hada_w{n}_b": torch.ones(2, columns) for n in (1, 2)}
    save_file(state, tmp_path / "loha.safetensors")
    with pytest.raises(InvalidRequestError, match="changes several layers of this checkpoint together"):
        family.draw(tmp_path / "loha.safetensors")


def test_a_lora_of_another_width_is_refused(family: Family, tmp_path: Path) -> None:
    key = f"lora_unet_{next(iter(family.names)).replace('.', '_')}"
    state = {f"{key}.lora_down.weight": torch.ones(2, 8), f"{key}.lora_up.weight": torch.ones(24, 2)}
    save_file(state, tmp_path / "narrow.safetensors")
    with pytest.raises(InvalidRequestError, match=r"is for a layer of shape 24×8"):
        family.draw(tmp_path / "narrow.safetensors")


def test_a_loras_family_is_told_by_its_names(family: Family, tmp_path: Path) -> None:
    path = _plain_lora(family, tmp_path)
    assert (describe(path).kind, describe(path).family) == ("lora", family.worker.family.name)


def test_a_loras_plan_needs_only_headers(family: Family, tmp_path: Path) -> None:
    path = _plain_lora(family, tmp_path)
    layers = CheckpointLayers.of_files(family.worker.checkpoint, family.worker.family)
    original, modules = next(iter(family.names.items()))
    changes = plan_lora(read_header(path), layers).layers
    assert [change.module for change in changes] == list(modules), original


def _plain_lora(family: Family, folder: Path) -> Path:
    original, modules = next(iter(family.names.items()))
    layers = [family.plain.transformer.get_submodule(module) for module in modules]
    key = f"lora_unet_{original.replace('.', '_')}"
    rows = sum(layer.out_features for layer in layers)
    state: dict[str, Tensor] = {
        f"{key}.lora_down.weight": torch.ones(2, layers[0].in_features),
        f"{key}.lora_up.weight": torch.ones(rows, 2),
    }
    save_file(state, folder / "plain.safetensors")
    return folder / "plain.safetensors"


def _assert_drawn(family: Family, drawn: Picture, expected: Any) -> None:
    assert _difference(drawn.image, expected) <= 1
    assert _difference(drawn.image, family.draw().image) > 1


def _difference(first: Any, second: Any) -> int:
    return int(np.abs(np.asarray(first, int) - np.asarray(second, int)).max())
