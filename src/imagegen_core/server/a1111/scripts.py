"""Checks of A1111's scripts: this server has none, and accepts only disabled scripts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imagegen_core.errors import InvalidRequestError
from imagegen_core.request import shown

_SWITCHES = ("enabled", "enable", "is_enabled")
_PARTS = ("model", "module", "image", "input_image")  # fields of ControlNet's units
_NOTHING = ("", "none")


def check_scripts(scripts: Mapping[str, Any]) -> None:
    """Refuse scripts with an effect on the picture.

    Args:
        scripts: The value of ``alwayson_scripts``: a dict ``{"args": [...]}`` for each script's name.

    Raises:
        InvalidRequestError: A script is enabled; the message names it.
    """
    for name, block in scripts.items():
        arguments = block.get("args") if isinstance(block, dict) else block
        if arguments and not _is_off(name.casefold(), arguments):
            raise InvalidRequestError(
                f"There is no script {shown(name)} here: leave it out, or switch it off", "alwayson_scripts"
            )


def _is_off(name: str, arguments: Any) -> bool:
    """Return True if a script's arguments disable it; most scripts have the switch as their first argument."""
    if not isinstance(arguments, list):
        return _unit_is_off(arguments)
    if arguments[0] is False or all(map(_unit_is_off, arguments)):
        return True
    if name == "adetailer":  # https://github.com/Bing-su/adetailer/wiki/API: one or two switches may precede the units
        return all(isinstance(argument, bool) or _unit_is_off(argument) for argument in arguments)
    if name in ("roop", "reactor"):  # the first argument is a face
        return arguments[1:2] == [False]
    return False


def _unit_is_off(unit: Any) -> bool:
    """Return True for an argument without effect: null, false, or a disabled or empty unit."""
    if not isinstance(unit, dict):
        return unit is None or unit is False
    if any(unit.get(switch) is False for switch in _SWITCHES):
        return True
    if "ad_model" in unit:
        return _is_nothing(unit["ad_model"]) or unit.get("ad_tab_enable") is False
    return all(_is_nothing(unit.get(part)) for part in _PARTS)


def _is_nothing(name: object) -> bool:
    return name is None or (isinstance(name, str) and name.casefold() in _NOTHING)
