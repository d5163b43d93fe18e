"""Unsupported features are refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import webuiapi


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"restore_faces": True}, "restore_faces='True' is nothing this server does: leave it out"),
        ({"firstphase_width": 64}, "firstphase_width='64' is nothing this server does"),
        ({"tiling": True}, "tiling='True' is nothing"),
        ({"script_name": "x/y plot"}, "script_name='x/y plot' is nothing"),
        (
            {"alwayson_scripts": {"x" * 9999: {"args": [True]}}},
            "There is no script 'xxxxxxxxxxxx...xxxxxxxxxxxxx' here",
        ),
        ({"alwayson_scripts": {"ControlNet": {"args": [{"image": "x"}]}}}, "There is no script 'ControlNet' here"),
        ({"sampler_name": "nix"}, "Unknown scheduler 'nix'"),
        ({"sampler_name": "Euler a", "eta": 0.5}, "Invalid eta 0.5: the Euler a scheduler takes none"),
        ({"sampler_name": "DPM++ 2M", "s_churn": 3}, "Invalid s_churn 3: the DPM++ 2M scheduler takes none"),
        ({"sampler_name": "DDIM", "scheduler": "Karras"}, "the DDIM scheduler takes Automatic, Uniform"),
        ({"styles": ["nix"]}, "Unknown style 'nix'"),
        ({"prompt": "a star <lora:nix:0.8>"}, "Unknown style 'nix'"),
        ({"prompt": "a star <hypernet:nix:0.8>"}, "<hypernet:nix:0.8> is not drawn here"),
        ({"prompt": "a [star:moon:0.5]"}, "[star:moon:0.5] in prompt changes at a step, which is not drawn here"),
        ({"negative_prompt": "[dark|dim]"}, "[dark|dim] in negative_prompt alternates, which is not drawn here"),
        ({"override_settings": {"nix": 1}}, "There is no option 'nix' to set here"),
        (
            {"override_settings": {"sd_model_checkpoint": "other"}},
            "tiny-sdxl: leave sd_model_checkpoint out",
        ),
        ({"override_settings": {"comma_padding_backtrack": 0}}, "comma_padding_backtrack 0: this server draws with 20"),
        ({"override_settings": {"enable_emphasis": 1}}, "option enable_emphasis 1: this server draws with True"),
        ({"override_settings": {"CLIP_stop_at_last_layers": True}}, "Invalid CLIP_stop_at_last_layers True"),
        ({"override_settings": {"forge_additional_modules": ["a.safetensors"]}}, "this server draws with []"),
        ({"width": 65}, "Invalid size '65x64'"),
        ({"n_iter": 9, "batch_size": 2}, "at most 16 pictures at a time"),
    ],
)
def test_unsupported_fields_are_refused(client: webuiapi.WebUIApi, fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RuntimeError) as caught:
        client.txt2img(**{"prompt": "a star", "width": 64, "height": 64, "cfg_scale": 1, **fields})
    status, text = caught.value.args
    assert status == 422
    assert sentence in text
