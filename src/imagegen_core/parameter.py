"""Request parameters that plugins declare, and their values in a request."""

from __future__ import annotations

import contextlib
import json
import re
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from imagegen_core.errors import InvalidRequestError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_OWN = (
    "prompt size num_inference_steps guidance_scale seed style_lora negative_prompt scheduler clip_skip schedule "
    "guidance_rescale eta s_churn s_tmin s_tmax s_noise loras parameters mode "
    "image mask strength resize inpaint outpaint image_guidance_scale variation micro_conditioning hires "
    "refiner switch_at "
    "superres superres_format superres_quality superres_magnitude"
)
_OPENAI = (
    "model n response_format output_format output_compression quality style background moderation user stream "
    "partial_images images input_fidelity safety_identifier"
)
_A1111 = (
    "styles sampler_name sampler_index batch_size n_iter steps cfg_scale width height override_settings "
    "alwayson_scripts send_images subseed subseed_strength seed_resize_from_w seed_resize_from_h denoising_strength "
    "enable_hr hr_scale hr_resize_x hr_resize_y hr_upscaler hr_second_pass_steps hr_sampler_name hr_scheduler "
    "hr_prompt hr_negative_prompt hr_cfg init_images include_init_images resize_mode image_cfg_scale mask_blur "
    "mask_blur_x mask_blur_y inpainting_fill inpaint_full_res inpaint_full_res_padding inpainting_mask_invert "
    "refiner_checkpoint refiner_switch_at"
)
RESERVED = frozenset(f"{_OWN} {_OPENAI} {_A1111}".split())
"""The names of the fields that requests have anyway."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True)
class Parameter:
    """A field of requests that a plugin adds: see ``imagegen_parameters``.

    Attributes:
        name: Its name in requests, a Python identifier in lower case, such as ``watermark``.
        type: Its type, as pydantic takes it: ``bool``, ``int``, ``float``, ``str``, a ``Literal`` of these, a list of
            these or a union with ``None``; ``Annotated[int, Field(ge=0, le=9)]`` sets limits.
        default: The value of requests without it; it changes no picture.
        description: One sentence for users.
        backends: The backends that support it; empty means all.
    """

    name: str
    type: Any
    default: Any
    description: str
    backends: tuple[str, ...] = ()

    def check(self, value: object) -> Any:
        """Return a valid value for a value from JSON or Python.

        Raises:
            InvalidRequestError: It is of another type, or out of range.
        """
        from pydantic import ValidationError

        try:
            return self._adapter.validate_python(value)
        except ValidationError as error:
            said = error.errors(include_url=False)[0]["msg"]
            raise InvalidRequestError(
                f"Invalid {self.name} {reprlib.repr(value)}: {said[0].lower()}{said[1:]}", self.name
            ) from error

    def parse(self, text: str) -> Any:
        """Return the value of a text from the command line; a list is JSON.

        Raises:
            InvalidRequestError: It is of another type, or out of range.
        """
        from pydantic import ValidationError

        for validate in (self._adapter.validate_python, self._adapter.validate_json):
            with contextlib.suppress(ValidationError):
                return validate(text)
        return self.check(text)

    @property
    def schema(self) -> dict[str, Any]:
        """Its JSON schema, with the default and the description."""
        return {**self._adapter.json_schema(), "default": self.default, "description": self.description}

    def fits(self, backend: str) -> bool:
        """Return whether a backend of this name supports it."""
        return not self.backends or backend in self.backends

    def fault(self) -> str | None:
        """Return its fault in words, such as an invalid default; None if it has none."""
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            return f"name is {self.name!r}, where an identifier in lower case belongs"
        if self.name in RESERVED:
            return f"name is {self.name!r}, which is a field of its own in requests"
        try:
            json.dumps([self.schema, self.check(self.default)], allow_nan=False)
        except Exception as error:  # noqa: BLE001 - pydantic raises errors of many kinds for a wrong type
            return f"type and default do not fit together, or into JSON ({error})"
        return None

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        from pydantic import ConfigDict, TypeAdapter

        return TypeAdapter(self.type, config=ConfigDict(allow_inf_nan=False))


class Parameters(Mapping[str, Any]):
    """The parameters of a request: its own values, and the defaults of the others.

    Attributes:
        given: The values that differ from the defaults.
    """

    def __init__(self, given: Mapping[str, Any] | None = None, defaults: Mapping[str, Any] | None = None) -> None:
        """Take the request's values, and the defaults of all declared parameters."""
        self._defaults = dict(defaults or {})
        self.given = {
            name: value
            for name, value in (given or {}).items()
            if name not in self._defaults or value != self._defaults[name]
        }

    def __getitem__(self, name: str) -> Any:
        """Return a parameter's value."""
        return self.given[name] if name in self.given else self._defaults[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._defaults | self.given)

    def __len__(self) -> int:
        """Return the number of parameters."""
        return len(self._defaults | self.given)

    def __repr__(self) -> str:
        return f"Parameters({dict(self)!r})"
