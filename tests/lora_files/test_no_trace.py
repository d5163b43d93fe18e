"""Whatever LoRAs requests ask for, good and bad, no request changes what another gets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagegen_core import InvalidRequestError, Picture
from tests.lora_files.conftest import Family
from tests.lora_files.dialects import comfyui, diffusers, kohya, peft, random_lora
from tests.lora_files.test_refusals import BAD

Save = Callable[..., Path]


@pytest.fixture
def files(family: Family, save: Save) -> tuple[list[Path], list[Path]]:
    """Good files and bad ones."""
    good = [
        save(write(random_lora(family.plain, seed)), f"good{seed}")
        for seed, write in enumerate((kohya, diffusers, peft, comfyui))
    ]
    whole = family.plain.unet.conv_in.weight.data * 1.5
    good.append(save(kohya(random_lora(family.plain, 5)) | {"lora_unet_conv_in.weight": whole}, "whole"))
    faults = ["NaN", "two ranks", "a layer that is not there", "OFT", "an infinite alpha"]
    bad = [save(BAD[fault][0](kohya(random_lora(family.plain))), fault.replace(" ", "-")) for fault in faults]
    return good, bad


@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_sequence_of_requests_leaves_every_picture_its_bytes(
    family: Family, files: tuple[list[Path], list[Path]], data: st.DataObject
) -> None:
    good, bad = files
    strengths = st.sampled_from([0.0, 0.5, 1.0, -1.0, 1e30])
    one = st.tuples(st.sampled_from([*good, *bad]), strengths)
    seen: dict[tuple[tuple[Path, float], ...], Picture] = {}
    for wanted in data.draw(st.lists(st.lists(one, max_size=3).map(tuple), min_size=3, max_size=6)):
        try:
            drawn = family.draw(*wanted)
        except InvalidRequestError:
            assert any(path in bad for path, _ in wanted)
        except Exception as error:  # noqa: BLE001 - a strength that leaves no numbers fails its own request
            assert any(strength == 1e30 for _, strength in wanted), error
        else:
            assert seen.setdefault(wanted, drawn) == drawn
        assert family.draw() == family.bare
