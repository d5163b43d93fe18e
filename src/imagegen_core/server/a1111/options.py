"""The options of A1111's clients, separate for each caller."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import ImageColor

from imagegen_core.errors import InvalidRequestError
from imagegen_core.modes import Mode
from imagegen_core.request import shown
from imagegen_core.server.a1111.known_options import (
    FORGE_ALONE,
    HARMLESS,
    OF_HIRES,
    OF_IMG2IMG,
    OF_INPUT_PICTURES,
    OF_MASKS,
    fixed_options,
)

_DEEPEST_CLIP = 12
_HASH = re.compile(r"[0-9a-fA-F]{6,64}\]")  # A1111 writes the hash after a checkpoint's name, as in "name [6ce0161689]"
_MOST_LISTED = 8
_LONGEST_VALUE = 64  # characters


@dataclass(frozen=True, slots=True)
class Options:
    """The options with an effect on pictures.

    Attributes:
        clip_stop_at_last_layers: "Clip skip"; 1 skips no layer.
        mode: Name of a mode; None is the server's default.
        input_pictures: The options for input pictures and hires that the caller has set, by name.
    """

    clip_stop_at_last_layers: int = 1
    mode: str | None = None
    input_pictures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def all_input_pictures(self) -> dict[str, Any]:
        """All options for input pictures and hires."""
        return OF_INPUT_PICTURES | dict(self.input_pictures)

    def check_img2img(self, *, masked: bool) -> None:
        """Refuse ``img2img`` with options whose effect is missing here.

        Raises:
            InvalidRequestError: An option has another value than those drawn here.
        """
        self._check_drawable(OF_IMG2IMG | OF_MASKS if masked else OF_IMG2IMG, "img2img")

    def check_hires(self) -> None:
        """Refuse hires with options whose effect is missing here.

        Raises:
            InvalidRequestError: An option has another value than those drawn here.
        """
        self._check_drawable(OF_HIRES, "hires")

    def with_overrides(
        self, given: Mapping[str, Any], checkpoints: Mapping[str, Mode], vae: str | None = None
    ) -> Options:
        """Return these options with a client's overrides.

        Args:
            given: Values by A1111's names, as in ``POST /options`` and ``override_settings``.
            checkpoints: The modes by all names of their checkpoints.
            vae: The configured VAE's name; None if each checkpoint uses its own VAE.

        Raises:
            InvalidRequestError: An option is unknown, or its value is unsupported.
        """
        options, fixed = self, fixed_options(vae) | FORGE_ALONE
        for name, value in given.items():
            if name == "sd_model_checkpoint":
                options = replace(options, mode=find_checkpoint(value, checkpoints).name)
            elif name == "CLIP_stop_at_last_layers":
                options = replace(options, clip_stop_at_last_layers=_clip_stop(value))
            elif name in OF_INPUT_PICTURES:
                changed = {**options.input_pictures, name: _checked_value(name, value)}
                options = replace(options, input_pictures=changed)
            elif name in fixed:
                _check_fixed(name, value, fixed[name])
            elif name not in HARMLESS:
                raise InvalidRequestError(f"There is no option {shown(name)} to set here: leave it out", "options")
        return options

    def _check_drawable(self, drawable: Mapping[str, tuple[Any, ...]], route: str) -> None:
        for name, values in drawable.items():
            value = self.all_input_pictures[name]
            if not _is_one_of(value, values):
                raise InvalidRequestError(
                    f"The option {name} is {shown(value)}, and {route} draws here with {shown(values[0])}: set it to "
                    "this value",
                    name,
                )


class CallersOptions:
    """The options of each caller, by the name of its API key; callers without a key share their options."""

    def __init__(self) -> None:
        """Start with the default options for each caller."""
        self._options: dict[str, Options] = {}  # the number of configured keys limits its size

    def of(self, caller: str) -> Options:
        """Return a caller's options."""
        return self._options.get(caller, Options())

    def set(self, caller: str, options: Options) -> None:
        """Keep a caller's options until the server stops."""
        self._options[caller] = options


def find_checkpoint(value: object, checkpoints: Mapping[str, Mode], field: str = "sd_model_checkpoint") -> Mode:
    """Find the mode for a checkpoint's name, with or without A1111's hash after it.

    Args:
        value: The name.
        checkpoints: The modes by all names of their checkpoints.
        field: The name's field, for the error.

    Raises:
        InvalidRequestError: There is no such checkpoint.
    """
    for name in (value, _without_hash(value)) if isinstance(value, str) else ():
        if name in checkpoints:
            return checkpoints[name]
    titles: dict[str, str] = {}
    for title, mode in checkpoints.items():
        titles.setdefault(mode.name, title)
    listed = " or ".join([*list(titles.values())[:_MOST_LISTED], *(["others"] if len(titles) > _MOST_LISTED else [])])
    raise InvalidRequestError(
        f"Invalid {field} {shown(value)}. This server draws only with {listed}: leave {field} out", field
    )


def _without_hash(title: str) -> str:
    name, _, digits = title.rpartition(" [")
    return name if _HASH.fullmatch(digits) else title


def _clip_stop(value: object) -> int:
    if isinstance(value, bool) or value not in range(1, _DEEPEST_CLIP + 1):
        raise InvalidRequestError(
            f"Invalid CLIP_stop_at_last_layers {shown(value)}: expected 1 to {_DEEPEST_CLIP}",
            "CLIP_stop_at_last_layers",
        )
    return int(value)  # type: ignore[call-overload, no-any-return]


def _check_fixed(name: str, value: object, accepted: tuple[Any, ...]) -> None:
    if not _is_one_of(value, accepted):
        expected = " or ".join(shown(other) for other in accepted)
        raise InvalidRequestError(
            f"Invalid option {name} {shown(value)}: this server draws with {expected}, so leave it out", name
        )


def _checked_value(name: str, value: object) -> object:
    """Return the value of an option for input pictures and hires."""
    if name == "img2img_fix_steps":
        _check_fixed(name, value, (False, True))
    elif name == "img2img_background_color":
        _check_colour(name, value)
    elif not (value is None or isinstance(value, bool | int | float | str)) or len(str(value)) > _LONGEST_VALUE:
        raise InvalidRequestError(f"Invalid option {name} {shown(value)}: expected a number, a word or a flag", name)
    return value


def _check_colour(name: str, value: object) -> None:
    try:
        ImageColor.getrgb(value if isinstance(value, str) and len(value) <= _LONGEST_VALUE else "")
    except ValueError:
        raise InvalidRequestError(
            f"Invalid option {name} {shown(value)}: expected a colour such as #ffffff", name
        ) from None


def _is_one_of(value: object, others: tuple[Any, ...]) -> bool:
    return any(type(value) in _alike(other) and value == other for other in others)


def _alike(value: object) -> tuple[type, ...]:
    """Return the JSON types equal to a value's type: 1 and 1.0 are equal, 1 and true are not."""
    return (int, float) if type(value) in (int, float) else (type(value),)
