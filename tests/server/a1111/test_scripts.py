"""Scripts are accepted only if they are off."""

from __future__ import annotations

from typing import Any

import pytest

from imagegen_core.errors import InvalidRequestError
from imagegen_core.server.a1111.scripts import check_scripts


@pytest.mark.parametrize("value", [None, {}, {"args": None}, {"args": []}, {"args": [None]}, {"args": [False, "x", 3]}])
@pytest.mark.parametrize("name", ["ControlNet", "ADetailer", "Tiled Diffusion"])
def test_disabled_scripts_are_accepted(name: str, value: Any) -> None:
    check_scripts({name: value})


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        # https://github.com/Mikubill/sd-webui-controlnet, internal_controlnet/args.py
        ("ControlNet", [{"enabled": False, "image": "iVBO", "model": "canny"}]),
        ("controlnet", [{"model": "None", "module": "none", "image": None}, {"enabled": False, "module": "canny"}]),
        # https://github.com/Bing-su/adetailer/wiki/API
        ("ADetailer", [True, False, {"ad_model": "None"}]),
        ("ADetailer", [{"ad_model": "None"}, {"ad_model": "face_yolov8n.pt", "ad_tab_enable": False}]),
        ("ADetailer", [True]),
        ("roop", ["iVBO", False, "0"]),
        ("ReActor", ["iVBO", False, "0"]),
        ("animatediff", [{"enable": False, "model": "mm_sd15_v3.safetensors"}]),
    ],
)
def test_each_scripts_own_switch_disables_it(name: str, arguments: Any) -> None:
    check_scripts({name: {"args": arguments}})


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("ControlNet", [{"enabled": False, "model": "canny"}, {"enabled": True, "module": "reference_only"}]),
        ("ControlNet", [{"model": "canny [1a2b3c4d]"}]),
        ("ADetailer", [{"ad_model": "face_yolov8n.pt"}]),
        ("ADetailer", [True, False, {"ad_model": "face_yolov8n.pt"}]),
        ("roop", ["iVBO", True]),
        ("Tiled VAE", [True]),
        ("Seed", [-1]),
        ("x", "y"),
        ("x", 1),
    ],
)
def test_enabled_scripts_are_refused_by_name(name: str, arguments: Any) -> None:
    with pytest.raises(InvalidRequestError, match=f"There is no script '{name}' here: leave it out, or switch it off"):
        check_scripts({name: {"args": arguments}})
