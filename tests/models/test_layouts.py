"""diffusers converts the single-file checkpoints of the tests back to the same tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    FluxTransformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.loaders import single_file_utils as diffusers

from tests.checkpoints import save_sd3
from tests.layouts import ldm_state, original_flux_transformer, original_sd3


@pytest.fixture(scope="module")
def sdxl(sdxl_checkpoint: Path) -> Any:
    return StableDiffusionXLPipeline.from_pretrained(sdxl_checkpoint)


@pytest.fixture(scope="module")
def sd15(sd15_checkpoint: Path) -> Any:
    return StableDiffusionPipeline.from_pretrained(sd15_checkpoint)


def _same(converted: Mapping[str, torch.Tensor], network: Any) -> None:
    saved = network.state_dict()
    prefix = "" if any(name.startswith("text_model.") for name in saved) else "text_model."
    converted = {
        name.removeprefix(prefix): weight for name, weight in converted.items() if not name.endswith("position_ids")
    }
    assert converted.keys() == saved.keys()
    for name, weight in converted.items():
        assert torch.equal(weight, saved[name]), name


@pytest.mark.parametrize("family", ["sdxl", "sd15"])
@pytest.mark.parametrize(
    ("component", "convert"),
    [
        ("unet", diffusers.convert_ldm_unet_checkpoint),
        ("vae", diffusers.convert_ldm_vae_checkpoint),
    ],
)
def test_the_networks_round_trip(
    request: pytest.FixtureRequest, family: str, component: str, convert: Callable[..., Any]
) -> None:
    pipeline = request.getfixturevalue(family)
    network = getattr(pipeline, component)
    _same(convert(ldm_state(pipeline), dict(network.config)), network)


@pytest.mark.parametrize("family", ["sdxl", "sd15"])
def test_the_text_encoder_round_trips(request: pytest.FixtureRequest, family: str) -> None:
    pipeline = request.getfixturevalue(family)
    _same(diffusers.convert_ldm_clip_checkpoint(ldm_state(pipeline)), pipeline.text_encoder)


def test_the_second_text_encoder_round_trips(sdxl: Any) -> None:
    encoder = sdxl.text_encoder_2
    prefix = "conditioner.embedders.1.model."
    _same(diffusers.convert_open_clip_checkpoint(encoder, ldm_state(sdxl), prefix=prefix), encoder)


def test_the_transformer_of_stable_diffusion_3_round_trips(tmp_path: Path) -> None:
    folder = save_sd3(tmp_path / "sd3", num_layers=3, dual_attention_layers=(0, 1))
    pipeline = StableDiffusion3Pipeline.from_pretrained(folder)
    prefix = "model.diffusion_model."
    original = {name: weight for name, weight in original_sd3(pipeline).items() if name.startswith(prefix)}
    _same(diffusers.convert_sd3_transformer_checkpoint_to_diffusers(original), pipeline.transformer)


def test_the_transformer_of_flux_round_trips() -> None:
    # diffusers splits the rows at FLUX.1's own width; the columns may be few.
    width = 3072
    with torch.device("meta"):
        network = FluxTransformer2DModel(num_layers=2, num_single_layers=2, guidance_embeds=True)
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.randint(-128, 128, (tensor.shape[0], 2)[: tensor.ndim], generator=generator, dtype=torch.int8)
        for name, tensor in network.state_dict().items()
    }
    assert state["single_transformer_blocks.0.proj_mlp.weight"].shape == (4 * width, 2)
    converted = diffusers.convert_flux_transformer_checkpoint_to_diffusers(original_flux_transformer(state))
    assert converted.keys() == state.keys()
    assert all(torch.equal(weight, state[name]) for name, weight in converted.items())
