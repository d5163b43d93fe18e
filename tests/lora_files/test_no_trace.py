"""No request, valid or invalid, changes the picture of another request."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagegen_core import ImagegenError, Picture
from tests.lora_files.conftest import Family
from tests.lora_files.dialects import comfyui, diffusers, kohya, peft, random_lora
from tests.lora_files.test_refusals import BAD
from tests.repetitions import FACTOR

Save = Callable[..., Path]
Files = tuple[list[Path], list[Path]]

GOOD_FIELDS: list[dict[str, Any]] = [
    {},
    {"prompt": "a (red:1.4) [lake] BREAK at dawn", "guidance_scale": 4.0, "negative_prompt": "fog"},
    {"scheduler": "DPM++ 2M", "schedule": "Karras", "num_inference_steps": 3},
    {"scheduler": "Euler a", "seed": 9, "size": "64x128"},
    {"scheduler": "DDIM", "eta": 0.5, "clip_skip": 1},
    {"guidance_scale": 5.0, "guidance_rescale": 0.7},
]
BAD_FIELDS: list[dict[str, Any]] = [
    {"guidance_scale": 1e30},
    {"prompt": "a (lake:1e30)"},
    {"num_inference_steps": 5000},
    {"scheduler": "DDIM", "schedule": "Karras"},
    {"scheduler": "Nonsense"},
    {"scheduler": "Euler a", "s_churn": 0.5},
    {"size": "12by7"},
    {"style_lora": {"style": "unknown", "level": 1}},
]


@pytest.fixture
def files(family: Family, save: Save) -> Files:
    """Good files and bad files."""
    good = [
        save(write(random_lora(family.plain, seed)), f"good{seed}")
        for seed, write in enumerate((kohya, diffusers, peft, comfyui))
    ]
    whole = family.plain.unet.conv_in.weight.data * 1.5
    good.append(save(kohya(random_lora(family.plain, 5)) | {"lora_unet_conv_in.weight": whole}, "whole"))
    faults = ["NaN", "two ranks", "an unknown layer", "OFT", "an infinite alpha"]
    bad = [save(BAD[fault][0](kohya(random_lora(family.plain))), fault.replace(" ", "-")) for fault in faults]
    return good, bad


@settings(max_examples=4 * FACTOR, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_sequence_of_requests_changes_a_pictures_bytes(family: Family, files: Files, data: st.DataObject) -> None:
    good, bad = files
    loras = st.lists(
        st.tuples(st.sampled_from([*good, *bad]), st.sampled_from([0.0, 0.5, 1.0, -1.0, 1e30])), max_size=2
    )
    requests = st.tuples(loras, st.sampled_from([*GOOD_FIELDS, *BAD_FIELDS]))
    seen: dict[str, Picture] = {}
    for used, fields in data.draw(st.lists(requests, min_size=4, max_size=6)):
        is_good = fields in GOOD_FIELDS and all(path in good and strength != 1e30 for path, strength in used)
        try:
            drawn = family.draw(*used, **fields)
        except ImagegenError:
            assert not is_good
        else:
            assert seen.setdefault(repr((used, fields)), drawn) == drawn
        assert family.draw() == family.bare
