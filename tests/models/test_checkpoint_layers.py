"""The layers in the headers of a checkpoint's files equal those of the loaded networks."""

from __future__ import annotations

from pathlib import Path

import diffusers
import pytest

from imagegen_core import Registry
from imagegen_core.diffusion.loras.reading import layer_shapes
from imagegen_core.models.ldm_names import to_ldm
from imagegen_core.models.loras.checkpoint_layers import CheckpointLayers
from tests.layouts import ldm_unet, save_single_file

_PIPELINES = {"sdxl": diffusers.StableDiffusionXLPipeline, "sd15": diffusers.StableDiffusionPipeline}
_DEEPER = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (8, 16, 16),
    "norm_num_groups": 4,
    "cross_attention_dim": 8,
    "attention_head_dim": 4,
}


@pytest.mark.parametrize("family", _PIPELINES)
@pytest.mark.parametrize("layout", ["folder", "single file", "UNet alone"])
def test_layers_in_headers_equal_those_of_loaded_networks(
    family: str, layout: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(f"{family}_checkpoint")
    pipe = _PIPELINES[family].from_pretrained(folder, local_files_only=True)
    path, base = folder, None
    if layout == "single file":
        path = save_single_file(pipe, tmp_path / "whole.safetensors")
    elif layout == "UNet alone":
        path, base = folder / "unet/diffusion_pytorch_model.safetensors", folder
    from_headers = CheckpointLayers.of_files(path, Registry.discover().families[family], base).networks
    loaded = layer_shapes(pipe).networks
    assert {name: {key: from_headers[name].get(key) for key in shapes} for name, shapes in loaded.items()} == loaded


@pytest.mark.parametrize(
    "structure",
    [
        {
            "layers_per_block": 1,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"),
        },
        {
            "layers_per_block": 2,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 3),
        },
    ],
    ids=["one layer per block", "two layers per block"],
)
def test_ldm_names_of_a_unet_equal_those_of_the_original_code(structure: dict[str, object]) -> None:
    unet = diffusers.UNet2DConditionModel(**_DEEPER, **structure)
    expected = dict(zip(unet.state_dict(), ldm_unet(unet), strict=True))
    assert to_ldm(unet.state_dict()) == expected
